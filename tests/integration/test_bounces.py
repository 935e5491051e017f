"""`outbox bounces`: reports in a Maildir, as servers write them and as nobody should."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from outbox import dsn
from outbox.cli import main
from outbox.database import create_engine
from outbox.states import Feedback
from tests import reports
from tests.told import kept, sent, suppressed

ANN = "ann@example.com"
NOBODY = "<nobody@example.com>"


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    for folder in ("new", "cur", "tmp"):
        (tmp_path / "bounces" / folder).mkdir(parents=True)
    return tmp_path / "bounces"


@pytest.fixture
def bounces(sqlite_url: str, maildir: Path) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["bounces", *(arguments or (str(maildir),))], env={"DATABASE_URL": sqlite_url})

    return run


def put(maildir: Path, *messages: bytes) -> None:
    for number, message in enumerate(messages):
        (maildir / "new" / f"17{number}.M1.host").write_bytes(message)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (reports.postfix(NOBODY, ANN), (Feedback.BOUNCED, f"550 5.1.1 <{ANN}>: Recipient address rejected")),
        (reports.postfix(NOBODY, ANN, "5.2.2", reply="552 full"), (Feedback.SOFT_BOUNCED, "552 full")),
        (reports.postfix(NOBODY, ANN, "4.4.7", reply="timeout"), (Feedback.SOFT_BOUNCED, "timeout")),
        (reports.postfix(NOBODY, ANN, "5.1.8", reply="sender"), (Feedback.SOFT_BOUNCED, "sender")),
        (reports.postfix(NOBODY, ANN, "4.4.1", "delayed", reply="later"), (Feedback.DELAYED, "later")),
        (reports.postfix(NOBODY, ANN, "2.0.0", "delivered", reply="ok"), (Feedback.DELIVERED, "ok")),
        (reports.postfix(NOBODY, "forwarded@example.org", original=ANN, reply="x"), (Feedback.BOUNCED, "x")),
        (
            reports.exchange(NOBODY, ANN),
            (Feedback.BOUNCED, "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"),
        ),
        (reports.complaint(NOBODY, ANN), (Feedback.COMPLAINED, "abuse")),
    ],
    ids=["postfix", "full", "given up", "sender", "delayed", "delivered", "forwarded", "exchange", "complaint"],
)
def test_reports_of_many_servers(report: bytes, expected: tuple[Feedback, str]) -> None:
    (event,) = dsn.events(report, datetime.now(UTC))
    assert (event.kind, " ".join(event.said.split())) == expected
    assert event.recipient == ANN
    assert event.message_ids == (NOBODY,)


def test_a_report_of_what_nobody_need_know_has_no_events() -> None:
    now = datetime.now(UTC)
    assert dsn.events(reports.postfix(NOBODY, ANN, "2.0.0", "relayed"), now) == []
    assert dsn.events(reports.complaint(NOBODY, ANN, "not-spam"), now) == []


def test_a_mailbox_is_read_once(bounces: Callable[..., Result], sqlite_url: str, maildir: Path) -> None:
    engine = create_engine(sqlite_url)
    id_, message_id = sent(engine)
    put(
        maildir,
        reports.postfix(message_id, ANN),
        reports.postfix(message_id, ANN),  # another copy of the same
        reports.postfix(message_id, "bob@example.com"),  # which that mail did not go to
        reports.postfix(NOBODY, ANN),
        reports.person(),
    )
    first = bounces()
    assert (first.exit_code, first.output) == (
        0,
        "1 report recorded, 1 known already, 2 of no mail of ours; 1 other and 0 unreadable messages.\n",
    )
    assert kept(engine, id_) == [("bounced", "550 5.1.1 <ann@example.com>: Recipient address rejected")]
    assert list(suppressed(engine)) == [ANN]
    assert [path.name for path in (maildir / "new").iterdir()] == ["174.M1.host"]
    assert sorted(path.name for path in (maildir / "cur").iterdir()) == [f"17{n}.M1.host:2,S" for n in range(4)]
    assert json.loads(bounces(str(maildir), "--json").output) == {
        "recorded": 0,
        "known": 0,
        "unknown": 0,
        "other": 1,
        "unreadable": 0,
    }
    engine.dispose()


def test_a_complaint_suppresses(bounces: Callable[..., Result], sqlite_url: str, maildir: Path) -> None:
    engine = create_engine(sqlite_url)
    _, message_id = sent(engine)
    put(maildir, reports.complaint(message_id, ANN))
    (maildir / "new" / "170.M1.host").rename(maildir / "cur" / "170.M1.host:2,F")  # a person has flagged it
    assert bounces().exit_code == 0
    assert suppressed(engine) == {ANN: ("complained: abuse", "dsn")}
    assert [path.name for path in (maildir / "cur").iterdir()] == ["170.M1.host:2,FS"]
    engine.dispose()


def _nested(depth: int) -> bytes:
    return b"".join(
        b'Content-Type: multipart/report; report-type=delivery-status; boundary="%d"\n\n--%d\n' % (n, n)
        for n in range(depth)
    )


def test_hostile_mail_is_skipped_and_told(
    bounces: Callable[..., Result], sqlite_url: str, maildir: Path, tmp_path: Path
) -> None:
    engine = create_engine(sqlite_url)
    _, message_id = sent(engine)
    report = reports.postfix(message_id, ANN)
    huge = report.replace(b"Thank you.", b"x" * 5_000_000)
    no_charset = report.replace(b"us-ascii", b"no-such-charset").replace(b"mx.example.com (", b"\xff\xfe\x00 (")
    dateless = report.replace(b"Date: Sun, 29 Nov 2026", b"Date: Sun, 99 Nov 99999")
    endless = b"\n".join([b"Content-Type: multipart/report; report-type=delivery-status; boundary=b", b"", b"--b"] * 3)
    crowded = endless[: len(endless) // 3] + b"\nContent-Type: message/delivery-status\n\n" + b"a: b\n\n" * 20_000
    put(
        maildir,
        _nested(2000),
        b"",
        b"\0" * 9000,
        huge,
        no_charset,
        dateless,
        endless,
        report[: len(report) // 2],
        crowded,
    )
    (maildir / "new" / "link").symlink_to("/dev/zero")
    result = bounces()
    assert result.exit_code == 0, result.output
    assert "Skipped, for it cannot be read as a message: 170.M1.host" in result.output
    assert result.output.splitlines()[-1] == (
        "1 report recorded, 2 known already, 0 of no mail of ours; 5 other and 2 unreadable messages."
    )
    assert list(suppressed(engine)) == [ANN]
    engine.dispose()


def test_misuse_is_told(bounces: Callable[..., Result], tmp_path: Path) -> None:
    assert bounces(str(tmp_path)).exit_code == 2
    assert "is no Maildir" in bounces(str(tmp_path)).output
