"""Shows how far a training has come while somebody watches: a line in a terminal, a bar in a notebook."""

import contextlib
import os
import sys


@contextlib.contextmanager
def shown(total):
    """Yields a function to call with the global step; what it shows of ``total`` steps is removed at the end.

    Nothing is shown if nobody watches, if the variable ``MNISTDIST_PROGRESS`` is 0, or if ``total`` is None.
    """
    if total is None or os.environ.get("MNISTDIST_PROGRESS") == "0":
        yield lambda step: None
    elif _in_notebook():
        with _notebook_bar(total) as update:
            yield update
    else:
        from tqdm import tqdm

        with tqdm(total=total, desc="global step", leave=False, disable=not sys.stderr.isatty()) as bar:
            yield lambda step: bar.update(step - bar.n) if step > bar.n else None


def _in_notebook():
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


@contextlib.contextmanager
def _notebook_bar(total):
    """A display of the notebook's own: what is written to stderr would leave an empty block in the cell's output."""
    from IPython.display import HTML, display

    latest, handle = 0, display(_bar(HTML, 0, total), display_id=True)

    def update(step):
        nonlocal latest
        if step > latest:
            latest = step
            handle.update(_bar(HTML, step, total))

    try:
        yield update
    finally:
        handle.update({}, raw=True)  # a display without data has no height


def _bar(html, step, total):
    shown = min(step, total)
    return html(f'<progress max="{total}" value="{shown}"></progress> global step {step} of {total}')
