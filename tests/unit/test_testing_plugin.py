"""The plugin as pytest loads it: in a process of its own, in a folder with nothing but tests, with no settings."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

_PLUGINS = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]

_SECTION = (_ROOT / "README.md").read_text().partition("\n## Test it\n")[2].partition("\n## ")[0]
_FIRST_TEST, _OWN_SESSION = re.findall(r"^```python\n(.*?)^```$", _SECTION, re.DOTALL | re.MULTILINE)

_OWN_ENGINE = """
import pytest
from sqlalchemy.orm import Session
from outbox import EmailService
from outbox.database import create_engine
from outbox.models import Base

@pytest.fixture
def engine(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()

"""

_COMMITTING = """
import pytest
from outbox import EmailService

@pytest.mark.parametrize("number", range(3))
def test_committing(number, outbox, outbox_session):
    assert outbox.queued == outbox.sent == []
    EmailService(outbox_session).queue_email("ada@example.com", "Hello", text="Hello.")
    outbox_session.commit()
    outbox.deliver()
    outbox_session.commit()
"""

_SETTINGS = """
import pytest
from outbox import EmailService, Settings

@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("SMTP_FROM_EMAIL", "Shop <shop@example.com>")

def send(outbox, session):
    row = EmailService(session).queue_email("ada@example.com", "Hello", text="Hello.")
    return outbox.deliver()[0].sender, row.max_attempts

def test_environment(outbox, outbox_session):
    assert send(outbox, outbox_session) == ("shop@example.com", 5)

class TestOwn:
    @pytest.fixture
    def outbox_settings(self):
        return Settings.load(smtp_from_email="own@example.com", outbox_max_attempts=2)

    def test_own(self, outbox, outbox_session):
        assert send(outbox, outbox_session) == ("own@example.com", 2)

def test_environment_again(outbox, outbox_session):
    assert send(outbox, outbox_session) == ("shop@example.com", 5)
"""

_FAILING = """
def test_it(outbox):
    outbox.assert_sent(to="ada@example.com")
"""

_JOURNAL = "var/outbox-journal.jsonl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of an application, and the journal of a worker that its developer runs there."""
    folder = tmp_path_factory.mktemp("application")
    (folder / "test_first.py").write_text(_FIRST_TEST)
    (folder / "test_own.py").write_text(_OWN_ENGINE + _OWN_SESSION)
    (folder / "test_committing.py").write_text(_COMMITTING)
    (folder / "test_settings.py").write_text(_SETTINGS)
    (folder / "test_failing.py").write_text(_FAILING)
    (folder / "var").mkdir()
    (folder / _JOURNAL).write_text("what a relay has taken\n")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes Python take Outbox for an installed package."""
    site = tmp_path_factory.mktemp("site")
    info = site / "email_outbox-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: email-outbox\nVersion: 0.1\n")
    lines = "\n".join(f"{name} = {module}" for name, module in _PLUGINS.items())
    (info / "entry_points.txt").write_text(f"[pytest11]\n{lines}\n")
    return site


@pytest.fixture(scope="module")
def said(folder: Path) -> str:
    """What pytest says to them."""
    return _run("-m", "pytest", "-p", "outbox.testing", "-W", "error", "-rA", folder=folder, code=1)


@pytest.mark.parametrize("asked_for", [(), ("-p", "outbox.testing")])
def test_installed_it_is_there_and_may_be_asked_for_as_well(
    folder: Path, installed: Path, asked_for: tuple[str, ...]
) -> None:
    arguments = "-m", "pytest", *asked_for, "-W", "error", "test_first.py"
    assert "1 passed" in _run(*arguments, folder=folder, path=installed)


def test_the_first_test_of_the_readme_runs_as_it_stands(said: str) -> None:
    assert "\nPASSED test_first.py::test_welcome\n" in said


def test_the_test_of_the_readme_with_a_session_of_its_own_runs(said: str) -> None:
    assert "\nPASSED test_own.py::test_full_mailbox\n" in said


def test_each_test_begins_with_nothing_whatever_the_one_before_committed(said: str) -> None:
    assert said.count("\nPASSED test_committing.py::test_committing") == 3


def test_the_settings_are_the_environments_or_the_applications_own(said: str) -> None:
    assert said.count("\nPASSED test_settings.py::") == 3


def test_a_journal_of_the_developers_is_left_alone(said: str, folder: Path) -> None:
    assert (folder / _JOURNAL).read_text() == "what a relay has taken\n"


def test_a_failure_is_shown_at_the_line_of_the_test(said: str) -> None:
    assert '\n>       outbox.assert_sent(to="ada@example.com")\n' in said
    assert "\nE       AssertionError: No mail to ada@example.com was sent.\n" in said
    assert "\ntest_failing.py:3: AssertionError\n" in said
    assert said.count("\nFAILED ") == 1


def test_it_costs_nothing_until_it_is_used(tmp_path: Path) -> None:
    """pytest imports the plugin of an installed package at every start, before a coverage can begin."""
    loaded = "import sys, outbox.testing; print(*sorted(name for name in sys.modules if name.startswith('outbox')))"
    assert _run("-c", f"{loaded}; assert 'sqlalchemy' not in sys.modules", folder=tmp_path) == "outbox outbox.testing\n"


def _run(*arguments: str, folder: Path, path: Path = _ROOT, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{_ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout
