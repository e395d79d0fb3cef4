"""The tools behind make: recording, sanitizing, the buttons of the pages."""

import platform
import re
import socket
from types import SimpleNamespace

import nbformat
import pytest
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pygments.token import Token

from book._ext import build, record
from book._ext import extension as book_extension
from book._ext.environment import environment, write_whole
from tests.book.book_rules import SANITIZERS


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


def test_a_claim_that_is_not_true_any_more_is_not_recorded(tmp_path, monkeypatch, capsys):
    path, source = tmp_path / "a.ipynb", 'print("above 0.9:", result.accuracy > 0.9)'
    said = [new_output("stream", text="above 0.9: True\nof 3: False\n")]
    nbformat.write(new_notebook(cells=[new_markdown_cell("a"), new_code_cell(source, outputs=said)]), path)

    def says(text):
        def execute(self, **options):
            self.nb.cells[1].outputs = [new_output("stream", text=text)]

        monkeypatch.setattr(record.Recorder, "execute", execute)
        return record.main([str(path)])

    before = path.read_bytes()
    assert says("above 0.9: False\nof 3: False\n") == 1
    assert "cell 1 failed; the file is unchanged.\nIt says 'above 0.9: False', and said True" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert says("above 0.9: True\nof 3: False\n") == 0


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
    for pattern, replacement in SANITIZERS:
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


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("a: True\n", "a: False\n", ["a: False"]),
        ("a: True\n", "a: True\nb: False\n", []),
        ("chief: True\nchief: False\n", "chief: True\nchief: False\n", []),  # two tasks
        ("chief: True\nchief: True\n", "chief: True\nchief: False\n", ["chief: False"]),
    ],
)
def test_a_claim_is_refuted_when_it_was_true_and_is_not_now(before, after, found):
    def notebook(text, source="print(1)"):
        cell = new_code_cell(source, outputs=[new_output("stream", name="stdout", text=text)])
        cell.id = "claim"
        return new_notebook(cells=[new_markdown_cell(text), cell])

    assert [line for _, line in record.refuted(notebook(before), notebook(after))] == found
    assert list(record.refuted(notebook(before), notebook(after, source="print(2)"))) == []
