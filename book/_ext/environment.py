"""What the book was made on, in a few rows: versions, processor, memory. Names no host, user or path."""

import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from mnistdist._files import whole

PACKAGES = ("tensorflow", "ipyparallel", "numpy", "matplotlib", "jupyter-book", "nbval")


def processor():
    """The processor's name as its maker gives it, or the architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def environment():
    """(what, value) of each row, all strings."""
    import psutil

    from mnistdist import __version__
    from mnistdist.cluster.pinning import available_cores, find_gpus

    gpus = len(find_gpus())
    return [
        ("mnistdist", __version__),
        ("Python", platform.python_version()),
        *((name, version(name)) for name in PACKAGES),
        ("system", f"{platform.system()} {os.uname().release.split('-')[0]}"),
        ("processor", processor()),
        ("logical cores that may be used", str(len(available_cores()))),
        ("memory", f"{psutil.virtual_memory().total / 2**30:.0f} GiB"),
        ("GPUs that TensorFlow can use", str(gpus) if gpus else "none"),
    ]


def write_stamped(path, rows):
    """Write measured rows as JSON, with the environment beside them; makes the file's folder."""
    write_whole(Path(path), json.dumps({"environment": dict(environment()), "rows": rows}, indent=1) + "\n")


def write_whole(path, text):
    """Write a file so that it is the old or the new one, whole; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, partial)
