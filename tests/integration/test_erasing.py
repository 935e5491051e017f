"""One recipient's personal data goes, from everywhere; that there was a mail, and what came of it, stays."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy.orm import Session

from outbox import anonymity, auditing, breaker, erasing, suppressions
from outbox.attachments import Attachment
from outbox.cli import main
from outbox.cli.surroundings import who
from outbox.models import EmailBlob, EmailContent, EmailEvent, EmailSuppression, EmailTrouble, QueuedEmail
from outbox.searching import Filter
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import Outcome, Status
from tests import rows
from tests.servers import dump

ADA = "Ada.Lovelace@example.com"
NAME = "Lovelace"

Erase = Callable[..., Result]


@pytest.fixture
def erase(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Erase:
    monkeypatch.setenv("DATABASE_URL", database_url)
    return lambda *arguments, **options: CliRunner().invoke(main, ["erase", *arguments], **options)


def queue(engine: sa.Engine, *to: str, **mail: Any) -> list[int]:
    settings = Settings.load(smtp_from_email="shop@example.org")
    with Session(engine) as session:
        values = {"subject": "Dear Ms Lovelace", "text": "Lovelace, you owe us.", "html": "<p>Lovelace</p>"} | mail
        first = EmailService(session, settings).queue_email(list(to), **values)
        session.commit()
        return [row.id for row in first.content.recipients]


def end(engine: sa.Engine, *ids: int) -> None:
    """They were sent, and the relay quoted the address."""
    with engine.begin() as connection:
        for id_ in ids:
            rows.add_attempt(connection, id_, 1, Outcome.SENT)
            connection.execute(
                sa.text(
                    "UPDATE email_queue SET status = 'sent', sent_at = created_at, finalized_at = created_at,"
                    " last_error = '<' || recipient || '>' WHERE id = :id"
                ),
                {"id": id_},
            )
        connection.execute(
            sa.text(
                "UPDATE email_attempts SET reply = '250 ok, ' ||"
                " (SELECT last_error FROM email_queue WHERE email_queue.id = email_attempts.email_id)"
            )
        )


def everything_of(engine: sa.Engine) -> None:
    """Mails, words, deeds and relays that know her."""
    files = [Attachment("lovelace.pdf", b"Lovelace's bill")]
    headers = {"X-Customer": "Lovelace"}
    own = queue(
        engine, f"Ada Lovelace <{ADA}>", reply_to=ADA, headers=headers, attachments=files,
        idempotency_key=f"bill:{ADA}", request_id="lovelace-7",
    )  # fmt: skip
    shared = queue(engine, f"Ada Lovelace <{ADA.upper()}>", "Bob <bob@example.com>", cc=["carol@example.com"])
    end(engine, *own, *shared)
    queue(engine, ADA)
    uncertain = queue(engine, ADA.lower())
    with engine.begin() as connection:
        connection.execute(sa.update(QueuedEmail).where(QueuedEmail.id == uncertain[0]).values(status=Status.UNCERTAIN))
        connection.execute(
            sa.insert(EmailEvent).values(
                email_id=own[0], kind="bounced", provider="dsn", provider_event_id=f"x-{ADA}", said=f"550 <{ADA}>",
                occurred_at=rows.from_now(-5),
            )
        )  # fmt: skip
        auditing.suppress(connection, ADA, "Lovelace asked", "grace")
        suppressions.add(connection, "example.net", f"the domain that {ADA} has left", "grace")
        found = Filter(recipient=ADA.lower(), subject="Lovelace").given()
        auditing.record(connection, "grace", "requeue", "mail 9", filter=found)
        auditing.record_mails(connection, "grace", "cancel", own, filter={"subject": "Lovelace"})
        breaker.pause(connection, "mx1:25", f"said <{ADA}>", "grace")
        connection.execute(sa.insert(EmailTrouble).values(key="x", sentence=f"<{ADA.lower()}>"))


def whole(engine: sa.Engine) -> str:
    """All that the database holds: PostgreSQL as dumped, SQLite as its files lie there, free pages and log included."""
    if engine.dialect.name == "postgresql":
        return dump(engine.url.render_as_string(hide_password=False))
    path = Path(str(engine.url.database))
    files = (path, path.with_name(f"{path.name}-wal"))
    return b"".join(file.read_bytes() for file in files if file.exists()).decode("latin-1")


def test_nothing_is_left_of_her(erase: Erase, engine: sa.Engine) -> None:
    everything_of(engine)
    with engine.connect() as connection:
        tables = [len(connection.execute(sa.select(model)).all()) for model in (QueuedEmail, EmailContent, EmailEvent)]
        message_ids = set(connection.scalars(sa.select(EmailContent.message_id)).all())
    assert "lovelace" in whole(engine).lower()

    result = erase(ADA, "--yes", "--json", catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert told == {
        "mails": 4, "cancelled": 1, "given_up": 1, "files": 1, "suppressions": 1, "lines": 2, "left": 0,
        "dry_run": False,
    }  # fmt: skip
    engine.dispose()
    left = whole(engine).lower()
    assert "lovelace" not in left
    assert b"lovelace".hex() not in left
    assert "bob@example.com" in left

    with engine.connect() as connection:
        assert tables == [
            len(connection.execute(sa.select(model)).all()) for model in (QueuedEmail, EmailContent, EmailEvent)
        ]
        assert connection.execute(sa.select(EmailBlob.sha256)).all() == []
        assert connection.scalars(sa.select(EmailSuppression.target)).all() == ["example.net"]
        recipients = connection.scalars(sa.select(QueuedEmail.recipient)).all()
        kept = message_ids & set(connection.scalars(sa.select(EmailContent.message_id)).all())
        lines = auditing.lines(connection)
    assert sum(name.endswith("@erased.invalid") for name in recipients) == 4
    assert len(set(recipients)) == 6
    assert len(kept) == 1, "of the mail that others have, too"
    assert (lines[0].who, lines[0].action, lines[0].target, lines[0].detail["mails"]) == (
        who(),
        "erase",
        "a recipient",
        4,
    )
    assert {(line.who, line.action) for line in lines} >= {("grace", "suppress"), ("grace", "requeue")}


def test_what_is_not_over_is_left_for_another_time(erase: Erase, engine: sa.Engine) -> None:
    (sending,) = queue(engine, ADA)
    shared = queue(engine, ADA, "bob@example.com")
    with engine.begin() as connection:
        lease = {"claim_token": "t", "claimed_by": "w", "lease_expires_at": rows.from_now(99)}
        connection.execute(
            sa.update(QueuedEmail)
            .where(QueuedEmail.id == sending)
            .values(status=Status.SENDING, relay="mx:25", **lease)
        )
    result = erase(ADA, "--yes")
    assert (result.exit_code, result.stdout.splitlines()[0].startswith("0 mails")) == (1, True)
    assert "Error: 2 mails left, which a worker has or which others still wait for" in result.stderr
    assert rows.statuses(engine, [sending, *shared]) == ["sending", "cancelled", "pending"]
    assert rows.row(engine, shared[1]).subject == "Dear Ms Lovelace"

    with engine.begin() as connection:
        connection.execute(
            sa.update(QueuedEmail).values(
                status=Status.CANCELLED, finalized_at=rows.from_now(0), claim_token=None, claimed_by=None,
                lease_expires_at=None,
            )
        )  # fmt: skip
    assert erase(ADA, "--yes").exit_code == 0
    assert rows.row(engine, shared[1]).recipient == "bob@example.com"
    # In those, chance may have spelled her name.
    left = re.sub(r"erased-[0-9a-f]+|[0-9a-f]{16,}", "", whole(engine).lower())
    assert "ada" not in left.replace("metadata", "")


def test_it_asks_and_a_dry_run_touches_nothing(erase: Erase, engine: sa.Engine) -> None:
    (id_,) = queue(engine, ADA)
    with engine.begin() as connection:
        auditing.suppress(connection, ADA, "asked us", "grace")
    assert erase(ADA, "--dry-run").stdout.startswith(
        "1 mail and 1 suppression would be erased. Of the mails, 1 would be"
    )
    refused = erase(ADA, input="n\n")
    assert refused.exit_code == 1
    assert "of which 1 wait to be sent, and 1 suppression: without those, applications may write" in refused.stderr
    assert rows.statuses(engine, [id_]) == ["pending"]
    assert erase(ADA, "--yes", "--keep-suppressed").exit_code == 0
    with engine.connect() as connection:
        (line,) = connection.execute(sa.select(EmailSuppression.target, EmailSuppression.reason)).all()
    assert tuple(line) == (ADA.lower(), anonymity.ERASED)
    assert erase("nobody", "--yes").exit_code == 2


def test_whose_address_ends_like_hers_stays_on_record(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        auditing.suppress(connection, "joann@example.com", "asked", "grace")
        auditing.pause(connection, "mx1:25", "said <joann@example.community>", "grace")
        auditing.record(connection, "grace", "requeue", "mail 9", filter={"subject": "for\nANN@example.com"})
    assert erasing.erase(engine, "ann@example.com", "grace").lines == 1
    with engine.connect() as connection:
        _, *lines = auditing.lines(connection)
    assert [(line.target, line.detail) for line in lines] == [
        ("mail 9", {}),
        ("relay mx1:25", {"reason": "said <joann@example.community>"}),
        ("joann@example.com", {"reason": "asked", "category": ""}),
    ]


def test_batches(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "BATCH", 2)
    monkeypatch.setattr(erasing, "_LINES", 2)
    for _ in range(5):
        queue(engine, ADA)
    told: list[int] = []
    assert erasing.erase(engine, ADA, "grace", progress=told.append).mails == 5
    assert told == [2, 2, 1]
    assert erasing.erase(engine, ADA, "grace").mails == 0
