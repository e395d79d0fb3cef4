"""A small Sphinx extension: what `_config.yml` alone can't say.

- The launch, edit, issue and source buttons are on if `repository: url` is set, and off while it is empty.
- The environment variable `MNISTDIST_BOOK_EXECUTE` chooses which chapters run while the book is built: `all`
  (the default), `none`, or the name of one chapter. The others are rendered with the outputs stored in them.
"""

import os
from pathlib import Path

from tools.kernels import encrypt_connections

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


def setup(app):
    """Register both with Sphinx."""
    encrypt_connections()
    app.connect("config-inited", switch_buttons, priority=100)
    app.connect("config-inited", choose_executed, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
