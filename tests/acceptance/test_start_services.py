"""The two scripts, as a new user runs them: a copy of the tree, an empty environment, bash."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import time
import venv
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import pytest

from embedded.maildir import Maildir, Received
from embedded.ports import FIRST_CHOICE
from embedded.services import Service
from embedded.supervision import Supervisor
from outbox.database import create_engine
from tests import rows
from tests.smtp_script import Event, Reply
from tests.smtp_server import SmtpServer

ROOT = Path(__file__).parents[2]
PATIENCE = 150
"""Seconds for seven processes to start on a machine that has other things to do. Alone they take five."""

pytestmark = pytest.mark.timeout(400)

MAILS = [
    ("ada@example.com", "Weekly news"),
    ("alan@example.com", "Weekly news"),
    ("grace@example.com", "Weekly news"),
    ("ada@example.com", "Your receipt"),
    ("alan@example.com", "Your receipt"),
    ("books@example.com", "Your receipt"),
    ("ada@example.com", "Password reset"),
    ("grace@example.com", "Login code"),
]
SENSITIVE = {"Password reset": "password_reset", "Login code": "login_code"}
"""Their subjects are in the mail alone; the table names their templates."""


@dataclass
class Copy:
    """A copy of the tree, and what was started in it."""

    root: Path

    def run(self, script: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", script, *arguments],
            cwd=self.root,
            env=_environment(settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def start(self) -> "Foreground":
        return Foreground(self.root)

    @property
    def inbox(self) -> list[Received]:
        return list(Maildir(self.root / "var" / "inbox").newest(1000))

    def rows(self, columns: str) -> list[tuple[object, ...]]:
        database = sqlite3.connect(self.root / "var" / "outbox.db")
        try:
            return database.execute(f"SELECT {columns} FROM email_queue ORDER BY id").fetchall()
        finally:
            database.close()

    @property
    def processes(self) -> list[str]:
        """The command lines of all processes that run from here: each names the interpreter or a folder."""
        shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        return [line for line in shown.splitlines() if str(self.root) in line]


class Foreground:
    """./start_services.sh in a terminal's process group, to be interrupted."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            ["bash", "start_services.sh"],
            cwd=root,
            env=_environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said = ""

    def read_until(self, text: str) -> None:
        assert self._process.stdout is not None
        while text not in self.said:
            line = self._process.stdout.readline()
            assert line, f"it ended before it said {text!r}:\n{self.said}"
            self.said += line

    def interrupt(self, number: signal.Signals) -> int:
        os.killpg(self._process.pid, number)
        assert self._process.stdout is not None
        self.said += self._process.stdout.read()
        self._process.stdout.close()
        return self._process.wait(PATIENCE)


def _environment(settings: dict[str, str]) -> dict[str, str]:
    """Nothing that a developer may have set; 80 columns; a time zone in which no mail is scheduled for this hour."""
    zone = f"Etc/GMT{datetime.now(UTC).hour - 13:+d}"  # 13:00 there: east of Greenwich is minus
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}
    return environment | {"CELERY_TIMEZONE": zone} | settings


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    """A copy whose .venv is there and in order, since to install takes a minute; with ports that no other test has."""
    root = tmp_path / "the copy, 100% new"  # a name that needs quoting
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)  # with its time, or its bytecode would not be taken for its own
    for bytecode in ROOT.glob("[!.]*/**/__pycache__"):  # what seven processes at once would each compile
        if (home := root / bytecode.relative_to(ROOT).parent).is_dir():
            shutil.copytree(bytecode, home / bytecode.name)
    _lend_our_packages(root)
    _choose_ports(root)
    made = Copy(root)
    yield made
    stopped = made.run("stop_services.sh")
    assert stopped.returncode == 0, stopped.stderr
    assert made.processes == []


def _lend_our_packages(root: Path) -> None:
    venv.create(root / ".venv", symlinks=True)
    (site,) = (root / ".venv" / "lib").glob("python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib"))
    stamp = "source ./venv.sh; _stamp requirements.txt >.venv/requirements.txt.stamp"
    subprocess.run(["bash", "-c", stamp], cwd=root, check=True)


def _choose_ports(root: Path) -> None:
    (root / "var" / "run").mkdir(parents=True)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in FIRST_CHOICE]
    ports = ", ".join(f'"{name}": {s.getsockname()[1]}' for name, s in zip(FIRST_CHOICE, sockets, strict=True))
    for each in sockets:
        each.close()
    (root / "var" / "run" / "ports.json").write_text(f"{{{ports}}}")


def test_detached_it_delivers_keeps_running_and_is_stopped(copy: Copy) -> None:
    started = copy.run("start_services.sh", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    assert started.stderr == ""
    queued = [(address, "(sensitive)" if subject in SENSITIVE else subject) for address, subject in MAILS]
    assert [row[1:] for row in copy.rows("id, recipient, subject")] == queued  # nothing of what was rolled back
    assert {row[0] for row in copy.rows("status")} == {"sent"}
    assert sorted((m.envelope.recipients[0], str(m.headers["Subject"])) for m in copy.inbox) == sorted(MAILS)
    assert started.stdout.count("sent, in inbox") == len(MAILS)
    assert "rolled back " in started.stdout
    for subject, template in SENSITIVE.items():
        assert f"{template}*" in started.stdout
        assert subject not in started.stdout
    _the_receipt_has_the_right_headers(copy.inbox)
    _the_first_was_prompt(started.stdout)
    _the_pages_answer(started.stdout)
    _other_commands_find_the_services(copy)
    _what_dies_comes_back(Supervisor(copy.root))

    again = copy.run("start_services.sh")
    assert again.returncode == 0
    assert again.stdout.startswith("It is running already:\n")
    assert _urls(again.stdout) == _urls(started.stdout)
    assert len(copy.inbox) == len(MAILS)

    unsubscribed = _unsubscribe(copy.inbox)
    stopped = copy.run("stop_services.sh")
    assert stopped.stdout == "Everything has stopped. The data in var stays.\n"
    assert copy.processes == []
    assert copy.run("stop_services.sh").stdout == "Nothing is running here.\n"
    assert len(copy.rows("id")) == len(copy.inbox) == len(MAILS)

    # Who has unsubscribed does not keep it from starting.
    again = copy.run("start_services.sh", "--detach")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("sent, in inbox") == len(MAILS) - 1
    assert re.search(rf"{unsubscribed} .* Weekly news .* suppressed ", again.stdout)


def _unsubscribe(inbox: list[Received]) -> str:
    """The recipient who has pressed the button of their mail program."""
    news = next(mail for mail in inbox if mail.headers["Subject"] == "Weekly news")
    link = str(news.headers["List-Unsubscribe"]).strip("<> ")
    assert urlopen(Request(link, data=b"List-Unsubscribe=One-Click"), timeout=10).status == HTTPStatus.OK
    return news.envelope.recipients[0]


def _the_receipt_has_the_right_headers(inbox: list[Received]) -> None:
    receipts = [mail for mail in inbox if mail.headers["Subject"] == "Your receipt"]
    assert len({mail.headers["Message-ID"] for mail in receipts}) == 1
    for mail in receipts:
        assert mail.headers["From"] == "outbox@example.com"
        assert mail.headers["To"] == "Ada Lovelace <ada@example.com>"
        assert mail.headers["Cc"] == "Alan Turing <alan@example.com>"
        assert b"books@example.com" not in mail.raw  # the bcc, who has it, too
        (attachment,) = mail.parsed().iter_attachments()
        assert attachment.get_filename() == "order.csv"


def _the_first_was_prompt(said: str) -> None:
    """Beat stands at 60 s: it is the nudge that brought it."""
    (line,) = [line for line in said.splitlines() if line.startswith("The first was delivered")]
    assert float(line.removeprefix("The first was delivered ").split()[0]) < 2


def _urls(said: str) -> list[str]:
    return [word for word in said.split() if word.startswith("http://127.0.0.1:")]


def _the_pages_answer(said: str) -> None:
    *pages, admin = _urls(said)
    assert "Seeded: 3 organisations, 20 users, 8 quizzes, " in said
    application, inbox = (urlopen(url, timeout=10).read().decode() for url in pages[:2])
    assert "sent" in application
    assert f"{len(MAILS)} messages" in inbox
    _, _, password = said.partition("user: admin, password: ")
    login = b64encode(f"admin:{password.split()[0]}".encode()).decode()
    flower = Request(pages[2], headers={"Authorization": f"Basic {login}"})
    assert "Flower" in urlopen(flower, timeout=10).read().decode()
    _, _, password = said.partition("user: admin (or ada), password: ")
    for name in ("admin", "ada"):
        browser = build_opener(HTTPCookieProcessor())
        form = browser.open(admin, timeout=10).read().decode()
        (token,) = re.findall(r'name="csrf_token" value="([^"]+)"', form)
        fields = {"csrf_token": token, "name": name, "password": password.split()[0]}
        page = browser.open(f"{pages[0]}login", urlencode(fields).encode(), timeout=10).read().decode()
        assert "Log out" in page
        assert ("/admin/" in page) == (name == "admin")


def _other_commands_find_the_services(copy: Copy) -> None:
    """Such as a task that is run by hand."""
    environment = copy.root / "var" / "run" / "environment"
    assert environment.stat().st_mode & 0o077 == 0, "there are keys in it"
    command = [".venv/bin/python", "-m", "flask", "--env-file", str(environment), "tasks", "run", "health_check"]
    done = subprocess.run(command, cwd=copy.root, env=_environment({}), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["healthy"], done.stdout


def _what_dies_comes_back(supervisor: Supervisor) -> None:
    pids = {service.name: service.pid for service in supervisor.states()}
    os.kill(pids["worker-bulk"], signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while {s.name: s.pid for s in supervisor.states() if s.state == "RUNNING"}.get("worker-bulk") in {
        None,
        pids["worker-bulk"],
    }:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_in_the_foreground_it_stays_until_interrupted(copy: Copy, number: signal.Signals) -> None:
    running = copy.start()
    running.read_until("Ctrl-C stops it all.")
    assert len(copy.processes) > len(FIRST_CHOICE)
    assert running.interrupt(number) == 0
    assert "Traceback" not in running.said
    assert copy.processes == []


def test_interrupted_while_it_starts_it_leaves_nothing_behind(copy: Copy) -> None:
    running = copy.start()
    deadline = time.monotonic() + PATIENCE
    while not Supervisor(copy.root).is_running():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert running.interrupt(signal.SIGTERM) == 130
    assert "Traceback" not in running.said
    assert copy.processes == []


def test_with_a_relay_the_mail_goes_to_ones_own_address_alone(copy: Copy) -> None:
    with SmtpServer() as relay:
        settings = {"SMTP_HOST": relay.host, "SMTP_PORT": str(relay.port), "SMTP_FROM_EMAIL": "me@mine.example"}
        started = copy.run("start_services.sh", "--detach", **settings)
        copy.run("stop_services.sh")
    assert started.returncode == 0, started.stdout + started.stderr
    assert f"goes through {relay.host}:{relay.port}, all of it to me@mine.example" in started.stdout
    assert {mail.recipient for mail in relay.mails} == {"me@mine.example"}
    assert len(relay.mails) == len(copy.rows("id")) > 0
    assert "Nobody is called admin: make one with flask users add" in started.stdout  # no strangers, to be mailed


def test_mail_that_does_not_arrive_is_a_failure_with_its_reason(copy: Copy) -> None:
    def script(event: Event) -> Reply | None:
        return Reply(550, "5.7.1 we do not know you") if event.verb == "RCPT" else None

    with SmtpServer(script) as relay:
        settings = {"SMTP_HOST": relay.host, "SMTP_PORT": str(relay.port), "SMTP_FROM_EMAIL": "me@mine.example"}
        started = copy.run("start_services.sh", "--detach", **settings)
    assert started.returncode == 1
    assert "to me@mine.example is dead: " in started.stderr
    assert "we do not know you" in started.stderr
    assert "The end of the workers' logs:" in started.stderr
    assert "Traceback" not in started.stderr
    assert copy.processes == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ADMIN_PASSWORD": "short"}, "ADMIN_PASSWORD is a password of 5 characters: use 12 or more"),
        ({"SMTP_USER": "me"}, "SMTP_USER is set and SMTP_HOST is not: "),
        ({"OUTBOX_CHUNK": "many"}, "The settings are wrong: OUTBOX_CHUNK='many': "),
        ({"SMTP_HOST": "relay.example"}, "SMTP_HOST or OUTBOX_RELAYS is set and SMTP_FROM_EMAIL is not: "),
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "The Redis that REDIS_URL names does not answer ("),
        ({"DATABASE_URL": "postgresql://me:secret@127.0.0.1:1/x"}, "DATABASE_URL=postgresql://me:***@127.0.0.1:1/x "),
        ({"DATABASE_URL": "mysql://127.0.0.1/x"}, "The settings are wrong: DATABASE_URL=mysql://127.0.0.1/x: "),
        ({"DATABASE_URL": "me:secret@nowhere"}, "The settings are wrong: DATABASE_URL is no URL: "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_settings_end_in_one_sentence(copy: Copy, settings: dict[str, str], sentence: str) -> None:
    started = copy.run("start_services.sh", **settings)
    assert started.returncode == 1
    assert started.stderr.startswith(sentence), started.stderr
    assert len(started.stderr.strip().splitlines()) == 1
    assert "secret" not in started.stderr


def test_waiting_mail_of_ones_own_database_does_not_go_to_the_inbox(copy: Copy, sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    (waiting,) = rows.add(engine)
    engine.dispose()
    started = copy.run("start_services.sh", "--detach", DATABASE_URL=sqlite_url)
    assert started.returncode == 1
    assert started.stderr.startswith(f"DATABASE_URL={sqlite_url} holds mail that waits (rows: 1), "), started.stderr
    assert len(started.stderr.strip().splitlines()) == 1
    assert copy.inbox == []
    assert rows.statuses(engine, [waiting]) == ["pending"]
    engine.dispose()


def test_too_old_or_no_python_says_what_to_install(copy: Copy, tmp_path: Path) -> None:
    shutil.rmtree(copy.root / ".venv")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "cat", "cksum", "rm"):
        (tools / name).symlink_to(shutil.which(name) or name)
    started = copy.run("start_services.sh", PATH=str(tools))
    assert started.returncode == 1
    assert started.stderr.startswith("Python 3.11 or newer is needed and none was found: install it")
    assert copy.run("stop_services.sh").stdout == "Nothing is running here.\n"


def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path / ("x" * 120))
    assert not supervisor.is_running()
    supervisor.start([], _environment({"PYTHONPATH": os.pathsep.join(sys.path)}))
    assert supervisor.is_running()
    assert supervisor.stop()
    assert not supervisor.is_running()


def test_a_death_is_noticed_though_the_service_runs_again(tmp_path: Path) -> None:
    mortal = Service("mortal", (sys.executable, "-c", "import time; time.sleep(1.5); exit('no more')"), rank=1)
    supervisor = Supervisor(tmp_path)
    supervisor.start([mortal], _environment({"PYTHONPATH": os.pathsep.join(sys.path)}))
    try:
        assert supervisor.deaths() == []
        deadline = time.monotonic() + PATIENCE
        while supervisor.deaths() != ["mortal"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert supervisor.tail("mortal") == "no more"
    finally:
        supervisor.stop()
