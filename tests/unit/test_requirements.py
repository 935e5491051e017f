"""What is installed is what `pyproject.toml` asks for."""

import re
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[2]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())


def test_the_runtime_is_pinned() -> None:
    project = _PROJECT["project"]
    _check([*project["dependencies"], *chain(*project["optional-dependencies"].values())], "requirements.txt")


def test_the_tools_are_pinned() -> None:
    _check(_PROJECT["dependency-groups"]["dev"], "requirements-dev.txt")


def test_both_pin_the_same_versions() -> None:
    runtime, tools = _pins("requirements.txt"), _pins("requirements-dev.txt")
    assert {name: tools[name] for name in tools if name in runtime}.items() <= runtime.items()


def _check(wanted: list[str], file: str) -> None:
    pins = _pins(file)
    for line in wanted:
        asked = Requirement(line)
        assert asked.name in pins, f"{file} lacks {asked.name}: make it anew with the command at its top"
        assert asked.specifier.contains(pins[asked.name]), f"{file} pins {asked.name}=={pins[asked.name]}, not {asked}"


def _pins(file: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (_ROOT / file).read_text(), re.MULTILINE))
