"""The machine and the versions: what a reader needs to know, and no name of a host, a user or a folder."""

import importlib.metadata
import json
import os
import platform
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import psutil

from benchmarks import environment

_PEERS = ("django", "django-post-office", "django-mailer", "procrastinate")
_OURS = ("celery", "css-inline", "emails", "psycopg", "sqlalchemy")


def machine() -> dict[str, Any]:
    """Processor, memory and kernel."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Of Python, of us, of what we stand on and of the peers."""
    project = tomllib.loads((environment.ROOT / "pyproject.toml").read_text())["project"]
    found = {"python": platform.python_version(), project["name"]: project["version"]}
    found |= {name: importlib.metadata.version(name) for name in _OURS}
    return found | {name: version for name, version in _installed().items() if name in _PEERS}


def _installed() -> dict[str, str]:
    """Package -> version, in the peers' environment."""
    told = subprocess.run(
        [environment.PYTHON, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True,
        check=True,
    )
    return {package["name"].lower().replace("_", "-"): package["version"] for package in json.loads(told.stdout)}


def _processor() -> str:
    """The model; Linux tells it in a file."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()
