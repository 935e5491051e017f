"""Where the benchmarks keep what they install, and the environment of peers and plots: not the project's own."""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "var/benchmarks"

_VENV = FOLDER / "venv"
_STAMP = _VENV / "installed"
_PINS = Path(__file__).with_name("requirements.txt")

PYTHON = _VENV / "bin/python"
"""Of the peers and the plots. Ours runs with the Python that runs the benchmarks, which is the project's."""


def install() -> None:
    """Make the environment of peers and plots, unless the one that is there has the same pins."""
    wanted = hashlib.sha256(f"{sys.version}\n{_PINS.read_text()}".encode()).hexdigest()
    if _STAMP.exists() and _STAMP.read_text() == wanted:
        return
    venv.create(_VENV, clear=True, with_pip=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", _PINS], check=True)
    _STAMP.write_text(wanted)


def clean() -> dict[str, str]:
    """What a process of ours gets from the environment: none of the developer's settings of databases and relays."""
    kept = ("HOME", "LANG", "PATH", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONUNBUFFERED": "1"}
