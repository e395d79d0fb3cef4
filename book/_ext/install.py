"""Make `.venv`: the locked packages and this project, editable.

`make install` and CI run it before there is any environment. So it uses the standard library alone, and it runs on any
Python from 3.6, which an unsupported one needs to be told so in a plain line. It is beside the other tools of the book,
where the tests can import it. Whatever goes wrong ends with one line and a non-zero exit status, and running it again
is enough.
"""

import argparse
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
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


def supported_versions():
    """The bounds of `requires-python` in pyproject.toml: ((3, 10), (3, 14)), the upper one excluded."""
    match = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', PROJECT.read_text(encoding="utf-8"))
    return (3, int(match.group(1))), (3, int(match.group(2)))


def ask(python, code):
    """What a Python of this name prints; None if it isn't here or doesn't work (pyenv leaves names that don't)."""
    try:
        return subprocess.check_output([str(python), "-c", code], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None


def check_python(version, executable):
    """Raise InstallError unless this version of Python is one that the project supports."""
    low, high = supported_versions()
    if not low <= tuple(version[:2]) < high:
        names = [f"python3.{minor}" for minor in range(high[1] - 1, low[1] - 1, -1)]
        found = [name for name in names if ask(name, "") is not None]
        todo = f"Try: make PYTHON={found[0]}" if found else "Install one and name it: make PYTHON=python3.11"
        raise InstallError(
            f"Python {version[0]}.{version[1]} at {executable} is not supported: "
            f"this needs Python 3.{low[1]} to 3.{high[1] - 1}. {todo}"
        )


def check_venv_module():
    """Raise InstallError if this Python can't make an environment with pip in it."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise InstallError(
            "{} lacks the module {}: install it (Debian, Ubuntu: apt install python{}.{}-venv) "
            "and run make again.".format(sys.executable, missing[0], *sys.version_info[:2])
        )


def check_disk(free):
    """Raise InstallError unless that many bytes are enough."""
    if free < NEEDED_BYTES:
        raise InstallError(
            f"The disk of {ROOT} has {free / 1e9:.1f} GB free, and the environment needs {NEEDED_BYTES / 1e9:.0f} GB: "
            "make room and run make again."
        )


def explain(log, otherwise=None):
    """One line on why something failed, from what it printed; or that line, unless the disk is full."""
    if DISK_FULL.search(log):
        return f"The disk is full: make room ({NEEDED_BYTES / 1e9:.0f} GB in all) and run make again."
    if otherwise is not None:
        return otherwise
    if NO_NETWORK.search(log):
        return "The package index can't be reached: check the network or proxy and run make again."
    errors = [line for line in log.splitlines() if line.lower().startswith("error")]
    return f"{errors[-1] if errors else 'pip failed without saying why'} (everything pip said: {LOG})"


def venv_version():
    """(major, minor) of the environment's Python, or None if it doesn't run."""
    said = ask(VENV / "bin" / "python", "import sys; print(*sys.version_info[:2])")
    return None if said is None else tuple(int(part) for part in said.split())


def digest():
    """What the environment depends on: the lock, the project's metadata, and where both lie."""
    return hashlib.sha256(LOCK.read_bytes() + PROJECT.read_bytes() + str(ROOT).encode()).hexdigest()


def pip(*arguments):
    """Run the environment's pip, show what it is at where a person watches, and raise InstallError if it fails."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--progress-bar=off", "--retries=2"]
    command += ["--no-input", "--no-color", "--disable-pip-version-check", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "universal_newlines": True}
    live, lines = sys.stdout.isatty(), []
    with LOG.open("a", encoding="utf-8") as log, subprocess.Popen(command, cwd=str(ROOT), **pipes) as process:
        try:
            for line in process.stdout:
                log.write(line)
                lines.append(line)
                if live and line.startswith(("Collecting", "Downloading", "Using cached", "Installing collected")):
                    print("\r\x1b[K" + line.strip()[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        except BaseException:
            process.terminate()  # or it would go on writing into .venv after an interrupt
            raise
    if live:
        print("\r\x1b[K", end="", flush=True)
    if process.returncode != 0:
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
        said = made.stdout.decode(errors="replace").strip()
        reason = explain(said, otherwise=(said or "no message").splitlines()[-1])
        raise InstallError(f"{sys.executable} -m venv failed: {reason}")


def install(chosen=False):
    """Bring `.venv` up to date; return at once if it is.

    Args:
        chosen: the user named this Python: an environment of another version is made anew.
    """
    stamp, version = STAMP.read_text(encoding="ascii").strip() if STAMP.exists() else None, venv_version()
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
        check_python(version, VENV / "bin" / "python")
        print("Bringing .venv up to date with requirements.lock and pyproject.toml", flush=True)
        STAMP.write_text("started\n", encoding="ascii")
    total = sum(1 for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line and " ; " not in line)
    print(f"Installing about {total} packages (2 to 5 minutes; details in {LOG.relative_to(ROOT)})", flush=True)
    pip("-r", str(LOCK))
    pip("--no-build-isolation", "--editable", str(ROOT))
    STAMP.write_text(digest() + "\n", encoding="ascii")
    print(f"Installed in {time.monotonic() - started:.0f} s: .venv", flush=True)


def main(arguments=None):
    """Install; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chosen", action="store_true", help="the user named this Python")
    try:
        install(parser.parse_args(arguments).chosen)
        return 0
    except InstallError as error:
        message = str(error)
    except KeyboardInterrupt:
        message = "Interrupted: run make again to start over (what was downloaded is kept)."
    except OSError as error:
        message = explain(str(error), otherwise=f"Installing failed: {error}")
    sys.stderr.write(("\n" if sys.stdout.isatty() else "") + message + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
