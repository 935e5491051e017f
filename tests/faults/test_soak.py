"""Random kills, as few as fit in here."""

import subprocess
import sys

import pytest


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("database", "kills"), [("postgresql", 40), ("sqlite", 10)])
def test_the_promise_holds_whatever_dies(database: str, kills: int) -> None:
    command = [sys.executable, "-m", "tests.faults.soak", "--kills", str(kills), "--seed", "1", "--database", database]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(run.stdout)  # noqa: T201 - pytest shows it
    assert run.returncode == 0
