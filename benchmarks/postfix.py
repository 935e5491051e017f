"""Postfix's `smtp-sink` and `smtp-source`: a relay and a client in C, which cost least beside what is measured.

From the PATH, or from Debian's package, unpacked into a folder of ours: it need not be installed, nor does that need
root. Where neither can be had, `benchmarks.sink` does.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environment import FOLDER

_UNPACKED = FOLDER / "postfix"
_FETCH_SECONDS = 60
_RUN_SECONDS = 10


@dataclass(frozen=True)
class Postfix:
    """Where the programs and their libraries are."""

    sink: Path
    source: Path
    libraries: Path | None

    @property
    def environment(self) -> dict[str, str]:
        """What they need to find their libraries."""
        return {} if self.libraries is None else {"LD_LIBRARY_PATH": str(self.libraries)}


def find() -> Postfix | None:
    """The programs, fetched at the first time; None if they cannot be had or do not run here."""
    sink, source = shutil.which("smtp-sink"), shutil.which("smtp-source")
    if sink and source:
        return Postfix(Path(sink), Path(source), None)
    programs = _UNPACKED / "usr/sbin"
    if not programs.is_dir() and not _fetch():
        return None
    found = Postfix(programs / "smtp-sink", programs / "smtp-source", _UNPACKED / "usr/lib/postfix")
    return found if _runs(found) else None


def _runs(found: Postfix) -> bool:
    """Whether all of its libraries are there: without arguments, it says how it is used."""
    try:
        said = subprocess.run(
            [found.sink], env=os.environ | found.environment, capture_output=True, timeout=_RUN_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"usage" in said.stderr


def _fetch() -> bool:
    """Whether Debian's package could be downloaded and unpacked."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return False
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        try:
            subprocess.run(
                ["apt-get", "download", "postfix"], cwd=folder, capture_output=True, timeout=_FETCH_SECONDS, check=True
            )
            (package,) = Path(folder).glob("postfix_*.deb")
            subprocess.run(["dpkg", "-x", package, Path(folder) / "unpacked"], capture_output=True, check=True)
        except (OSError, ValueError, subprocess.SubprocessError):
            return False
        (Path(folder) / "unpacked").rename(_UNPACKED)
    return True
