"""A small Sphinx extension: what `_config.yml` alone can't say.

- The launch, edit, issue and source buttons are on if `repository: url` is set, and off while it is empty.
- The environment variable `MNISTDIST_BOOK_EXECUTE` chooses which chapters run while the book is built: `all`
  (the default), `none`, or the name of one chapter. The others are rendered with the outputs stored in them.
- The directive `environment-table` is a table of what the book is built on.
- The directive `names-table` is a table of TensorFlow's names, with the sections that use them.
- Cells that run in the tasks, `%%px` and its kin, are coloured as the Python that they are.
"""

import os
from pathlib import Path

from docutils import nodes
from mdit_py_plugins.anchors.index import slugify
from pygments.lexer import bygroups, using
from pygments.lexers import get_lexer_by_name
from pygments.lexers.python import PythonLexer
from pygments.token import Keyword, Operator, Text
from sphinx.util.docutils import SphinxDirective

from book._ext.environment import environment
from book._ext.kernels import encrypt_connections
from book._ext.names import sections

BUTTONS = {
    "use_repository_button": True,
    "use_edit_page_button": True,
    "use_issues_button": True,
    "launch_buttons": {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"},
}


def switch_buttons(app, config):
    """Turn on the buttons that need a repository, if there is one."""
    if config.html_theme_options.get("repository_url"):
        config.html_theme_options.update(BUTTONS)


def choose_executed(app, config):
    """Say which notebooks are executed."""
    wanted = os.environ.get("MNISTDIST_BOOK_EXECUTE", "all")
    if wanted == "none":
        config.nb_execution_mode = "off"
    elif wanted != "all":
        notebooks = sorted(path.name for path in Path(app.srcdir, "book").glob("*.ipynb"))
        if f"{wanted}.ipynb" not in notebooks:
            raise ValueError(f"MNISTDIST_BOOK_EXECUTE={wanted}: expected all, none or one of {notebooks}")
        config.nb_execution_excludepatterns = [name for name in notebooks if name != f"{wanted}.ipynb"]


class EnvironmentTable(SphinxDirective):
    """A table of what :func:`book._ext.environment.environment` says."""

    def run(self):
        """Returns the table's node; the page is made anew in every build."""
        self.env.note_reread()
        body = nodes.tbody()
        for row in environment():
            cells = [nodes.entry("", nodes.paragraph(text=text)) for text in row]
            body += nodes.row("", *cells)
        columns = [nodes.colspec(colwidth=width) for width in (2, 3)]
        return [nodes.table("", nodes.tgroup("", *columns, body, cols=2))]


class NamesTable(SphinxDirective):
    """A table of what :func:`book._ext.names.sections` finds: a row for each name, with links to the sections."""

    def run(self):
        """Returns the table, which is parsed as the page's own Markdown; the page is made anew in every build."""
        self.env.note_reread()
        rows = ["| name | where it is used |", "|---|---|"]
        for name, places in sections(Path(self.env.srcdir, "book")).items():
            links = [f"[{page}: {title}]({file}#{slugify(title)})" for page, title, file in places]
            rows.append(f"| `{name}` | {'; '.join(links)} |")
        return self.parse_text_to_nodes("\n".join(rows))


IPython3Lexer = type(get_lexer_by_name("ipython3"))  # its module depends on the version of IPython


class PxLexer(IPython3Lexer):
    """IPython's cells, with the body of a ``%%px`` cell as Python; IPython's own lexer leaves it plain."""

    _px = (r"(?s)(\s*)(%%)(px\w*)([^\n]*\n)(.*)", bygroups(Text, Operator, Keyword, Text, using(PythonLexer)))
    tokens = IPython3Lexer.tokens | {"root": [_px, *IPython3Lexer.tokens["root"]]}


def setup(app):
    """Register all of it with Sphinx."""
    app.add_lexer("ipython3", PxLexer)
    app.add_directive("environment-table", EnvironmentTable)
    app.add_directive("names-table", NamesTable)
    encrypt_connections()
    app.connect("config-inited", switch_buttons, priority=100)
    app.connect("config-inited", choose_executed, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
