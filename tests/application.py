"""The application on a migrated database: people and things to put there, its tasks, its pages, and the mail it sends.

def test_something(world: World) -> None:
    ada = world.user("ada", time_zone="Asia/Kolkata")
    with time_machine.travel(datetime(2026, 11, 22, 18, tzinfo=UTC), tick=False):
        assert world.run(SEND_DAILY_REMINDERS) == {...}
    (mail,) = world.mails()
    assert world.client(ada).get("/quizzes/").status_code == 200
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from itertools import count
from typing import Any, cast

import sqlalchemy as sa
from flask.testing import FlaskClient
from jinja2.bccache import Bucket, BytecodeCache
from sqlalchemy.orm import Session

from app import create_app
from app.accounts.models import Organisation, Role, User
from app.projects.models import Project, Task
from app.quizzes.models import Attempt, Question, Quiz, Subject
from app.settings import AppSettings
from tests.delivering import deliver
from tests.smtp_server import SmtpServer

PASSWORD = "correct horse battery staple"
"""Everybody's."""

# Of the weakest parameters: 0.1 ms, not 40.
_HASH = "$argon2id$v=19$m=8,t=1,p=1$gso46kKIj9HcaBOZb2hHxg$2o9QvbpGUvnLK5PGYrKaqRr7K39aSugzZKaRZ5j3J5Y"


class _Compiled(BytecodeCache):
    """Jinja's templates, compiled once for all applications of this process: 30 to 50 ms for each that shows a page."""

    def __init__(self) -> None:
        self._codes: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._codes:
            bucket.bytecode_from_string(self._codes[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._codes[bucket.key] = bucket.bytecode_to_string()


_compiled = _Compiled()


class World:
    """One application. What it makes is committed; the objects stay readable."""

    def __init__(self, relay: SmtpServer, **settings: Any) -> None:
        defaults = {
            "smtp_host": relay.host,
            "smtp_port": relay.port,
            "smtp_from_email": "Outbox <outbox@example.com>",
            "outbox_signing_keys": "a-signing-key-of-32-characters-x",
            "app_url": "https://quiz.example",
        }
        self.relay = relay
        self.settings = AppSettings.load(**(defaults | settings))
        self.app = create_app(self.settings)
        self.app.config.update(TESTING=True, WTF_CSRF_ENABLED=False)
        self.app.jinja_env.bytecode_cache = _compiled
        self.engine: sa.Engine = self.app.extensions["engine"]
        self._numbers = count(1)
        self._read = 0

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction; its objects stay readable when it is over."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def add(self, *things: Any) -> None:
        """Commit them."""
        with self.session() as session:
            session.add_all(things)

    def organisation(self, name: str | None = None) -> Organisation:
        made = Organisation(name=name or f"Organisation {next(self._numbers)}")
        self.add(made)
        return made

    def user(self, username: str | None = None, *, organisation: Organisation | None = None, **columns: Any) -> User:
        """`email` is username@example.com unless it is said; None for somebody without."""
        username = username or f"user{next(self._numbers)}"
        defaults = {
            "organisation_id": (organisation or self.organisation()).id,
            "name": username.capitalize(),
            "email": f"{username}@example.com",
            "password_hash": _HASH,
        }
        made = User(username=username, **(defaults | columns))
        self.add(made)
        return made

    def admin(self, username: str = "root", **columns: Any) -> User:
        return self.user(username, role=Role.ADMIN, **columns)

    def quiz(self, title: str | None = None, subject: str = "Mathematics", questions: int = 4) -> Quiz:
        """Its questions have four choices, the first of them right."""
        with self.session() as session:
            found = session.scalar(sa.select(Subject).where(Subject.name == subject)) or Subject(name=subject)
            made = Quiz(title=title or f"Quiz {next(self._numbers)}", subject=found)
            made.questions = [
                Question(position=n, text=f"Question {n}?", choices=["right", "a", "b", "c"], answer=0)
                for n in range(questions)
            ]
            session.add(made)
        return made

    def attempt(self, user: User, quiz: Quiz, correct: int = 3, **columns: Any) -> Attempt:
        """Of four questions, unless `questions` says otherwise."""
        made = Attempt(user_id=user.id, quiz_id=quiz.id, correct=correct, **({"questions": 4} | columns))
        self.add(made)
        return made

    def project(self, owner: User, name: str | None = None) -> Project:
        made = Project(
            name=name or f"Project {next(self._numbers)}", owner_id=owner.id, organisation_id=owner.organisation_id
        )
        self.add(made)
        return made

    def task(self, project: Project, assignee: User | None = None, **columns: Any) -> Task:
        made = Task(
            project_id=project.id,
            assignee_id=assignee and assignee.id,
            **({"title": f"Task {next(self._numbers)}"} | columns),
        )
        self.add(made)
        return made

    def client(self, user: User | None = None) -> FlaskClient:
        """A browser; logged in, if a user is given."""
        client = self.app.test_client()
        if user is not None:
            with client.session_transaction() as cookies:
                cookies["_user_id"] = user.get_id()
                cookies["_fresh"] = True
        return client

    def run(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """Run the Celery task of that name here, in this process, and return its result, as JSON has it."""
        import workers  # noqa: PLC0415 - reads settings: not from a .env

        self.app.extensions["celery"].conf.include = workers.celery.conf.include
        self.app.extensions["celery"].loader.import_default_modules()
        task = self.app.extensions["celery"].tasks[name]
        return json.loads(json.dumps(task.apply(arguments, keywords, throw=True).get()))

    def mails(self) -> Sequence[EmailMessage]:
        """Deliver what is due, and read what the relay got since the last time, sorted by recipient."""
        deliver(self.engine, self.settings)
        new = self.relay.mails[self._read :]
        self._read += len(new)
        return [
            message_from_bytes(mail.data, policy=policy.default)
            for mail in sorted(new, key=lambda mail: mail.recipient)
        ]

    def close(self) -> None:
        self.engine.dispose()


def text_of(mail: EmailMessage) -> str:
    """Its text part."""
    part = mail.get_body(("plain",))
    assert part is not None
    return cast("str", part.get_content())


def html_of(mail: EmailMessage) -> str:
    """Its HTML part."""
    part = mail.get_body(("html",))
    assert part is not None
    return cast("str", part.get_content())
