"""show() is how pages quote the package: its text must be the source, and nothing else."""

import functools
import inspect

import pytest
from IPython.core.formatters import DisplayFormatter

import mnistdist.source
from mnistdist.source import show


class Example:
    @staticmethod
    def method():
        """A line, and one indented."""
        if True:
            return 1


def test_text_is_the_source():
    assert repr(show(show)) == inspect.getsource(show).rstrip("\n")
    assert repr(show(Example)) == inspect.getsource(Example).rstrip("\n")
    assert repr(show(mnistdist.source)) == inspect.getsource(mnistdist.source).rstrip("\n")


def test_methods_lose_their_indentation():
    lines = repr(show(Example.method)).splitlines()
    assert lines[:2] == ["@staticmethod", "def method():"]
    assert lines[-1] == "        return 1"


def test_a_wrapped_function_shows_what_it_wraps():
    @functools.wraps(show)
    def wrapper(obj):
        return show(obj)

    assert repr(show(wrapper)) == repr(show(show))


def test_a_notebook_gets_the_text_and_its_highlighted_form():
    bundle, _ = DisplayFormatter().format(show(show))
    assert bundle["text/plain"] == repr(show(show))
    assert bundle["text/markdown"] == f"````python\n{show(show)!r}\n````"
    assert set(bundle) == {"text/plain", "text/markdown"}


@pytest.mark.parametrize("obj", [len, 3, b"text", int, functools.partial(show)])
def test_what_has_no_source(obj):
    with pytest.raises(TypeError, match=r"show\(\) needs a function, class or module with Python source; got"):
        show(obj)


def test_a_name_shows_the_same_source_without_importing(tmp_path, monkeypatch):
    assert repr(show("mnistdist.source.show")) == repr(show(show))
    (tmp_path / "costly.py").write_text(
        "raise RuntimeError\n\n\nclass A:\n    @staticmethod\n    def f():\n        return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert repr(show("costly.A.f")) == "@staticmethod\ndef f():\n    return 1"


@pytest.mark.parametrize(
    "name", ["show", "no.such.thing", "mnistdist.source.nothing", "mnistdist.source.show.inner", ""]
)
def test_a_name_that_leads_nowhere_is_a_value_error(name):
    with pytest.raises(ValueError, match="show"):
        show(name)
