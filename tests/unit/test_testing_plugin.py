"""The plugin as pytest loads it: in a process of its own, in an empty folder, with no settings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

_README = Path(__file__).parents[2] / "README.md"

_SECTION = _README.read_text().partition("\n## Test it\n")[2].partition("\n## ")[0]
_FIRST_TEST, _OWN_SESSION = re.findall(r"^```python\n(.*?)^```$", _SECTION, re.DOTALL | re.MULTILINE)

_ENGINE = """
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


def test_the_first_test_of_the_readme_runs_as_it_stands() -> None:
    Path("test_first.py").write_text(_FIRST_TEST)
    assert "1 passed" in _pytest()


def test_the_test_of_the_readme_with_a_session_of_its_own_runs() -> None:
    Path("test_own.py").write_text(_ENGINE + _OWN_SESSION)
    assert "1 passed" in _pytest()


def test_each_test_begins_with_nothing_whatever_the_one_before_committed() -> None:
    test = "    assert outbox.queued == outbox.sent == []\n"
    test += '    EmailService(outbox_session).queue_email("ada@example.com", "Hello", text="Hello.")\n'
    test += "    outbox_session.commit()\n    outbox.deliver()\n    outbox_session.commit()\n"
    tests = (f"def test_{number}(outbox, outbox_session):\n{test}" for number in range(3))
    Path("test_several.py").write_text("\n".join(["from outbox import EmailService", *tests]))
    assert "3 passed" in _pytest()


def test_the_settings_are_the_environments_or_the_applications_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_FROM_EMAIL", "Shop <shop@example.com>")
    Path("test_settings.py").write_text(
        """
import pytest
from outbox import EmailService, Settings

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
    )
    assert "3 passed" in _pytest()


def test_a_journal_of_the_developers_is_left_alone() -> None:
    journal = Path("var/outbox-journal.jsonl")
    journal.parent.mkdir()
    journal.write_text("what a relay has taken\n")
    Path("test_first.py").write_text(_FIRST_TEST)
    assert "1 passed" in _pytest()
    assert journal.read_text() == "what a relay has taken\n"


def test_a_failure_is_shown_at_the_line_of_the_test() -> None:
    Path("test_failing.py").write_text("def test_it(outbox):\n    outbox.assert_sent(to='ada@example.com')\n")
    said = _pytest(code=1)
    assert "\n>       outbox.assert_sent(to='ada@example.com')\n" in said
    assert "\nE       AssertionError: No mail to ada@example.com was sent.\n" in said
    assert "\ntest_failing.py:2: AssertionError\n" in said


def test_it_costs_nothing_until_it_is_used() -> None:
    """pytest imports the plugin of an installed package at every start, before a coverage can begin."""
    loaded = "import sys, outbox.testing; print(sorted(name for name in sys.modules if name.startswith('outbox')))"
    assert _run("-c", f"{loaded}; assert 'sqlalchemy' not in sys.modules") == "['outbox', 'outbox.testing']\n"


def _pytest(code: int = 0) -> str:
    return _run("-m", "pytest", "-p", "outbox.testing", "-W", "error", code=code)


def _run(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout
