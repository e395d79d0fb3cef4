"""Make `.venv`: the locked packages and this project, editable. What `make install` runs.

It uses the standard library alone and runs on any Python from 3.6, so that an unsupported one is told so in a
plain line. Whatever goes wrong ends with one line and a non-zero exit status, and running it again is enough.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
STAMP = VENV / "mnistdist-install.txt"  # "started" while an install runs, a digest once it is complete
LOG = VENV / "mnistdist-install.log"
LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
NEEDED_BYTES = 4 * 10**9  # a complete .venv is 2.7 GB; the rest is pip's download cache

DISK_FULL = re.compile(r"No space left on device|Errno 28|Disk quota exceeded", re.I)
NO_NETWORK = re.compile(
    r"Failed to establish a new connection|NewConnectionError|Name or service not known|name resolution"
    r"|Network is unreachable|Connection refused|ConnectTimeout|Read timed out|ReadTimeout|Connection reset"
    r"|ProxyError|SSLError|Connection aborted|IncompleteRead",
    re.I,
)


class InstallError(Exception):
    """Why there is no environment, and what to do about it, in one line."""


def supported_versions(project=None):
    """The bounds of `requires-python` in pyproject.toml: ((3, 10), (3, 14)), the upper one excluded."""
    text = PROJECT.read_text(encoding="utf-8") if project is None else project
    match = re.search(r'requires-python = ">=(\d+)\.(\d+),<(\d+)\.(\d+)"', text)
    low_major, low_minor, high_major, high_minor = (int(part) for part in match.groups())
    return (low_major, low_minor), (high_major, high_minor)


def runs(python):
    """Whether a Python of this name is here and works (pyenv, for one, leaves names that don't)."""
    try:
        return subprocess.run([python, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def check_python(version, executable):
    """Raise InstallError unless this version of Python is one that the project supports."""
    low, high = supported_versions()
    if low <= tuple(version[:2]) < high:
        return
    names = [f"python{low[0]}.{minor}" for minor in range(high[1] - 1, low[1] - 1, -1)]
    found = [name for name in names if runs(name)]
    raise InstallError(
        "Python {}.{} at {} is not supported: this needs Python {}.{} to {}.{}. {}".format(
            *version[:2],
            executable,
            *low,
            high[0],
            high[1] - 1,
            f"Try: make PYTHON={found[0]}" if found else "Install one and name it: make PYTHON=python3.11",
        )
    )


def check_venv_module():
    """Raise InstallError if this Python can't make an environment with pip in it."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise InstallError(
            "{} lacks the module {}: install it (Debian, Ubuntu: apt install python{}.{}-venv) "
            "and run make again.".format(sys.executable, missing[0], *sys.version_info[:2])
        )


def check_disk(free, needed=NEEDED_BYTES):
    """Raise InstallError unless that many bytes are free."""
    if free < needed:
        raise InstallError(
            f"The disk of {ROOT} has {free / 1e9:.1f} GB free, and the environment needs {needed / 1e9:.0f} GB: "
            "make room and run make again."
        )


def explain(log):
    """One line on why pip failed, from what it printed."""
    if DISK_FULL.search(log):
        return f"The disk is full: make room ({NEEDED_BYTES / 1e9:.0f} GB in all) and run make again."
    if NO_NETWORK.search(log):
        return "The package index can't be reached: check the network or proxy and run make again."
    errors = [line for line in log.splitlines() if line.lower().startswith("error")]
    reason = errors[-1] if errors else "pip failed without saying why"
    return f"{reason} (everything pip said: {LOG})"


def venv_python():
    """The environment's own Python."""
    return VENV / ("Scripts" if os.name == "nt" else "bin") / "python"


def venv_version():
    """(major, minor) of the environment's Python, or None if it doesn't run."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        out = subprocess.run([str(venv_python()), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return tuple(int(part) for part in out.stdout.split()) if out.returncode == 0 else None
    except OSError:
        return None


def digest():
    """What the environment depends on: the lock, the project's metadata, and where both lie."""
    content = LOCK.read_bytes() + PROJECT.read_bytes() + str(ROOT).encode()
    return hashlib.sha256(content).hexdigest()


def read_stamp():
    """The stamp's text, or None without one."""
    return STAMP.read_text(encoding="ascii").strip() if STAMP.exists() else None


class Progress:
    """One line that is rewritten where a person watches, and a few lines where nobody does."""

    def __init__(self):
        self.live = sys.stdout.isatty()
        self.last = 0.0

    def say(self, text, force=False):
        now = time.monotonic()
        if not force and now - self.last < (0.2 if self.live else 15):
            return
        self.last = now
        if self.live:
            sys.stdout.write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
        else:
            sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def done(self):
        if self.live:
            sys.stdout.write("\r\x1b[K")


def pip(arguments, progress, total):
    """Run the environment's pip, show how far it is, and raise InstallError if it fails.

    `total` is about how many packages there will be: pip unpacks for minutes without a word, so the packages
    that have arrived in the environment are counted instead.
    """
    command = [str(venv_python()), "-m", "pip", "install", "--no-deps", "--progress-bar=off", "--retries=2"]
    command += ["--no-input", "--no-color", "--disable-pip-version-check", *arguments]
    lines, collected = [], 0
    unpacking, finished = threading.Event(), threading.Event()

    def count():
        while not finished.wait(1.0):
            if unpacking.is_set():
                here = len(list(VENV.glob("[Ll]ib/python*/site-packages/*.dist-info")))
                progress.say(f"[{min(here, total)}/{total}] unpacking")

    process = subprocess.Popen(
        command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    threading.Thread(target=count, daemon=True).start()
    try:
        with LOG.open("a", encoding="utf-8") as log:
            for line in process.stdout:
                log.write(line)
                lines.append(line)
                collected += line.startswith(("Collecting", "Requirement already"))
                text = line.strip().split(" (from -r")[0]
                if text.startswith(("Collecting", "Downloading", "Using cached")):
                    progress.say(f"[{min(collected, total)}/{total}] {text}", force=" MB)" in text)
                elif text.startswith("Installing collected"):
                    unpacking.set()
        failed = process.wait() != 0
    finally:
        finished.set()
        if process.poll() is None:
            process.terminate()
    if failed:
        raise InstallError(explain("".join(lines)))


def make_environment():
    """Create `.venv` with pip in it, from the Python that runs this."""
    check_python(sys.version_info, sys.executable)
    check_venv_module()
    check_disk(shutil.disk_usage(str(ROOT)).free)
    print("Making .venv with Python {}.{}.{}".format(*sys.version_info[:3]), flush=True)
    VENV.mkdir(exist_ok=True)
    STAMP.write_text("started\n", encoding="ascii")
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if made.returncode != 0:
        said = made.stdout.decode(errors="replace")
        last = said.strip().splitlines()[-1] if said.strip() else "no message"
        reason = explain(said) if DISK_FULL.search(said) else last
        raise InstallError(f"{sys.executable} -m venv failed: {reason}")


def install(chosen=False):
    """Bring `.venv` up to date; return at once if it is.

    Args:
        chosen: the user named this Python: an environment of another version is made anew.
    """
    stamp, version = read_stamp(), venv_version()
    if chosen:
        check_python(sys.version_info, sys.executable)
    other = chosen and version is not None and version != tuple(sys.version_info[:2])
    if stamp == digest() and version is not None and not other:
        return
    started = time.monotonic()
    if version is None or other or stamp == "started":  # nothing, not usable, or cut off half way: from scratch
        if stamp is not None:
            shutil.rmtree(str(VENV))
        make_environment()
    else:
        check_python(version, venv_python())
        print("Bringing .venv up to date with requirements.lock and pyproject.toml", flush=True)
        STAMP.write_text("started\n", encoding="ascii")
    total = sum(1 for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line and " ; " not in line)
    progress = Progress()
    progress.say(f"Installing about {total} packages (2 to 5 minutes; details in {LOG.relative_to(ROOT)})", force=True)
    pip(["-r", str(LOCK)], progress, total)
    pip(["--no-build-isolation", "--editable", str(ROOT)], progress, total)
    progress.done()
    STAMP.write_text(digest() + "\n", encoding="ascii")
    print(f"Installed in {time.monotonic() - started:.0f} s: .venv", flush=True)


def main(arguments=None):
    """Install; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chosen", action="store_true", help="the user named this Python")
    options = parser.parse_args(arguments)
    try:
        install(chosen=options.chosen)
    except InstallError as error:
        message = str(error)
    except KeyboardInterrupt:
        message = "Interrupted: run make again to start over (what was downloaded is kept)."
    except OSError as error:
        message = explain(str(error)) if DISK_FULL.search(str(error)) else f"Installing failed: {error}"
    else:
        return 0
    sys.stderr.write(("\n" if sys.stdout.isatty() else "") + message + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
