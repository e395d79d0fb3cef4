"""The tools behind make: recording, sanitizing, the buttons of the pages."""

import copy
import platform
import re
import socket
import subprocess
from types import SimpleNamespace

import nbformat
import pytest
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pygments.token import Token

from book._ext import build, record
from book._ext import extension as book_extension
from book._ext.environment import environment, write_whole
from book._ext.outputs import sanitizers


def test_recording_keeps_ids_and_tags_and_drops_the_machine():
    error = new_output("error", ename="ValueError", evalue="bad\nmore", traceback=["/home/a/b.py", "ValueError"])
    shown = new_output("display_data", data={"text/plain": "1"}, metadata={"engine_id": 3, "needs_background": "light"})
    cell = new_code_cell("1", outputs=[error, shown], metadata={"tags": ["a"], "execution": {"started": "now"}})
    notebook = new_notebook(cells=[cell, new_markdown_cell("a")], metadata={"widgets": {}, "machine": "name"})
    ids = [each.id for each in notebook.cells]
    record.normalise(notebook)
    assert [each.id for each in notebook.cells] == ids
    assert notebook.cells[0].metadata == {"tags": ["a"]}
    assert notebook.cells[0].outputs[0].traceback == ["ValueError: bad"]
    assert notebook.cells[0].outputs[1].metadata == {"needs_background": "light"}
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


def test_a_notebook_that_fails_stays_as_it_was(tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1", outputs=[new_output("stream", text="old\n")])]), path)
    before = path.read_bytes()

    def die(self, **options):
        self.running = 0
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr(record.Recorder, "execute", die)
    assert record.main([str(path)]) == 1
    assert "cell 0 failed; the file is unchanged" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.ipynb"]


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Record a notebook of one cell that printed ``above 0.9: True`` once and prints this now; return status, file."""
    path = tmp_path / "a.ipynb"

    def says(text, stored="above 0.9: True\nof 3 workers\n", **metadata):
        cell = new_code_cell("print(...)", outputs=[new_output("stream", text=stored)], execution_count=1)
        cell.metadata.update(metadata)
        cells = [new_markdown_cell("Far.\n\nNear before."), cell, new_markdown_cell("Near after.\n\nFar.")]
        nbformat.write(new_notebook(cells=cells), path)
        before = path.read_bytes()

        def execute(self, **options):
            self.nb.cells[1].outputs = [new_output("stream", text=text)]

        monkeypatch.setattr(record.Recorder, "execute", execute)
        return record.main([str(path)]), path.read_bytes() != before and path.read_text(encoding="utf-8")

    return says


@pytest.mark.parametrize("accept", ["", "1"])
def test_a_claim_that_is_false_is_not_recorded(recorded, capsys, monkeypatch, accept):
    monkeypatch.setenv("ACCEPT", accept)
    for line in "above 0.9: False", "both: True False", "waits: False ['a step']":
        assert recorded(f"{line}\nof 3 workers\n") == (1, False)
        assert f"the file is unchanged: cell 1 says {line!r}" in capsys.readouterr().err
    assert recorded("above 0.9: False\n", tags=["nbval-ignore-output"])[0] == 0


def test_what_a_checked_cell_prints_anew_is_shown_with_the_prose_and_stored_once_accepted(
    recorded, capsys, monkeypatch
):
    new = "above 0.9: True\nof 4 workers\n"
    assert recorded(new) == (1, False)
    said = capsys.readouterr()
    assert [line.strip() for line in said.out.splitlines()[2:]] == [
        "| Near before.",
        "above 0.9: True",
        "- of 3 workers",
        "+ of 4 workers",
        "| Near after.",
    ]
    assert "1 checked outputs differ" in said.err
    monkeypatch.setenv("ACCEPT", "1")
    status, stored = recorded(new)
    assert status == 0 and "of 4 workers" in stored


def test_code_that_changed_since_the_last_commit_is_shown_with_what_it_prints(tmp_path, capsys):
    path, identity = tmp_path / "a.ipynb", ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    line = new_output("stream", text="at most 3 late: True\n")
    cells = [new_code_cell(f"print({n})", outputs=[line], execution_count=n) for n in (1, 2)]
    before = new_notebook(cells=cells)
    assert record.committed(path) == {}
    nbformat.write(before, path)
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    assert record.report(path, before, before) == 0 and capsys.readouterr().out == ""
    after = copy.deepcopy(before)
    after.cells[1].source = "print(2_000)"
    assert record.report(path, before, after) == 0
    said = capsys.readouterr().out
    assert "cell 1 prints what it did: 'at most 3 late: True" in said and "cell 0" not in said
    assert "    code changed:\n    - print(2)\n    + print(2_000)\n" in said
    after.cells[1].outputs = [new_output("stream", text="at most 2 late: True\n")]
    assert record.report(path, before, after) == 1
    assert re.search(r"\+ print\(2_000\)\n +- at most 3 late.*\n +\+ at most 2 late", capsys.readouterr().out)


def test_what_nbval_does_not_compare_needs_no_acceptance(recorded):
    status, stored = recorded("listening on 10.0.0.1:2223\n", "listening on 10.0.0.7:43210\n")
    assert status == 0 and "10.0.0.1:2223" in stored
    assert recorded("0.97\n", "0.96\n", tags=["nbval-ignore-output"])[0] == 0


def test_a_half_written_file_never_takes_the_place_of_a_whole_one(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "a.json"
    write_whole(path, "whole")
    path.chmod(0o600)

    def full(self, text, **options):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "write_text", full)
        with pytest.raises(OSError, match="No space"):
            write_whole(path, "new")
    assert path.read_text() == "whole"
    write_whole(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert [each.name for each in path.parent.iterdir()] == ["a.json"]


def sanitized(text):
    for pattern, replacement in sanitizers():
        text = re.sub(pattern, replacement, text)
    return text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.168.233.201:2222", "127.0.0.1:40321"),
        ("grpc://localhost:2222", "grpc://10.0.0.1:5"),
        ("/job:worker/task:0/device:GPU:0", "/job:worker/task:0/device:CPU:0"),
        ("/job:worker/task:0/gpu:0", "/job:worker/task:0/cpu:0"),
        ("<object at 0x7f00aa11bb22>", "<object at 0x7faaaaaaaaaa>"),
        ("pid 4711", "pid 12"),
        ("Training elapsed time: 3.2 s", "Training elapsed time: 41.75 s"),
        ("165 steps/s", "84.1 updates/s"),
        ("/tmp/tmpabc/data", "/tmp/tmpxyz/model"),
    ],
)
def test_what_machines_write_differently_compares_equal(one, other):
    assert sanitized(one) == sanitized(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/job:ps/task:0", "/job:worker/task:0"),
        ("/job:worker/task:0/cpu:0", "/job:worker/task:0/cpu:1"),
        ("accuracy 0.96", "accuracy 0.10"),
        ("global step 1000", "global step 1001"),
        ("staleness 1", "staleness 0"),
        ("4000 updates by 2 workers", "4000 updates by 3 workers"),
    ],
)
def test_what_a_page_states_still_differs(one, other):
    assert sanitized(one) != sanitized(other)


@pytest.mark.parametrize(("url", "on"), [("", False), ("https://example.org/someone/book", True)])
def test_buttons_appear_with_the_repository(url, on):
    config = SimpleNamespace(html_theme_options={"repository_url": url})
    book_extension.switch_buttons(None, config)
    assert ("launch_buttons" in config.html_theme_options) is on
    assert ("use_edit_page_button" in config.html_theme_options) is on


@pytest.mark.parametrize(
    ("wanted", "mode", "left_out"),
    [("all", "cache", []), ("none", "off", []), ("a", "cache", ["b.ipynb"])],
)
def test_the_build_executes_the_chapters_it_is_told(tmp_path, monkeypatch, wanted, mode, left_out):
    (tmp_path / "book").mkdir()
    for name in "ab":
        (tmp_path / "book" / f"{name}.ipynb").touch()
    monkeypatch.setenv("MNISTDIST_BOOK_EXECUTE", wanted)
    config = SimpleNamespace(nb_execution_mode="cache", nb_execution_excludepatterns=[])
    book_extension.choose_executed(SimpleNamespace(srcdir=tmp_path), config)
    assert (config.nb_execution_mode, config.nb_execution_excludepatterns) == (mode, left_out)


def test_a_warning_and_a_reference_that_leads_nowhere_fail_the_build(tmp_path, monkeypatch):
    """Of each kind of link, the build says if it leads nowhere: no test looks for that besides."""
    called = []
    monkeypatch.setattr(build.subprocess, "run", lambda command, **_: called.append(command) or Failed)
    assert build.build_book(tmp_path, "none") == Failed.returncode
    assert {"--warningiserror", "--nitpick", "--keep-going"} <= set(called[0])


class Failed:
    returncode = 3


def test_an_unknown_chapter_is_refused(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    monkeypatch.setenv("MNISTDIST_BOOK_EXECUTE", "nothing")
    with pytest.raises(ValueError, match="MNISTDIST_BOOK_EXECUTE=nothing: expected all, none or one of"):
        book_extension.choose_executed(SimpleNamespace(srcdir=tmp_path), SimpleNamespace())


def test_the_environment_names_versions_and_no_machine():
    rows = dict(environment())
    assert rows["Python"] == platform.python_version()
    assert rows["tensorflow"].startswith("2.21")
    assert int(rows["logical cores that may be used"]) >= 1
    assert all(isinstance(value, str) and value for value in rows.values())
    assert socket.gethostname() not in " ".join(rows.values())


def test_cells_that_run_in_the_tasks_are_coloured_as_python():
    tokens = list(book_extension.PxLexer().get_tokens("%%px_worker0 --block\nimport os\nx = 1\n"))
    assert [kind for kind, text in tokens if text in ("import", "os")] == [
        Token.Keyword.Namespace,
        Token.Name.Namespace,
    ]
    assert (Token.Literal.Number.Integer, "1") in tokens
    assert "".join(text for _, text in tokens) == "%%px_worker0 --block\nimport os\nx = 1\n"
