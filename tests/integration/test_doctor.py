"""`outbox doctor`: for each part that mail needs, fine or what to do; and one mail followed to where it stuck."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trustme
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import migrations
from outbox import breaker, heartbeats
from outbox.cli import checks, dns_checks, examining, following, main, relay_checks
from outbox.cli.dns_checks import Unreachable
from outbox.cli.findings import Finding, Is
from outbox.heartbeats import BEAT, WORKER
from outbox.models import EmailEnvironment, EmailHeartbeat, QueuedEmail
from outbox.settings import Settings
from outbox.states import Outcome, Status
from tests import rows
from tests.certificates import certificate, self_signed
from tests.delivering import deliver
from tests.smtp_script import Reply, by_recipient, on
from tests.smtp_server import SmtpServer

Doctor = Callable[..., Result]


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer(by_recipient()) as server:
        yield server


@pytest.fixture
def examine(sqlite_url: str, smtp: SmtpServer, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Runs it in this process; keywords are environment variables."""
    values = {"DATABASE_URL": sqlite_url, "SMTP_HOST": smtp.host, "SMTP_PORT": str(smtp.port), "REDIS_URL": redis_url}
    values |= {"SMTP_FROM_EMAIL": "shop@example.com", "COLUMNS": "500"}

    def run(*arguments: str, **settings: str) -> Result:
        for name, value in (values | settings).items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, ["doctor", *arguments])

    return run


def living(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        heartbeats.give(connection, WORKER, "host:1", queues=["celery", "email.high"], active=2)
        heartbeats.give(connection, BEAT, "beat@host")


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[sa.Engine]:
    made = checks.impatient(Settings.load(database_url=sqlite_url))
    yield made
    made.dispose()


def lines(result: Result) -> dict[str, str]:
    """The last of each name."""
    found = {}
    for line in result.output.splitlines():
        mark, _, rest = line.partition("  ")
        if mark in {"fine", "WRONG", "-"}:
            name, _, said = rest.strip().partition("  ")
            found[name] = f"{mark} {said.strip()}".replace(" \N{RIGHTWARDS ARROW} ", "; ")
    return found


def test_all_is_well(examine: Doctor, engine: sa.Engine) -> None:
    living(engine)
    result = examine()
    assert result.exit_code == 0, result.output
    found = lines(result)
    assert found["worker"] == "fine host:1 lives, 2 active"
    assert found["beat"] == "fine beat@host lives"
    assert found["migrations"] == "fine at 0005, which this version wants"
    assert found["Redis"].endswith(" answers")
    assert found["DNS"] == "- example.com is reserved for examples and tests: it has no records"
    assert "WRONG" not in result.output
    assert "Nothing is wrong." in result.output
    told = json.loads(examine("--json").output)
    assert (told["fine"], told["test_mail"]) == (True, None)
    assert [finding["name"] for finding in told["findings"]] == list(found)


def test_what_is_wrong_is_said_with_what_to_do(examine: Doctor, engine: sa.Engine, smtp: SmtpServer) -> None:
    Path("journal").write_text("{}")
    rows.add(engine, next_attempt_at=rows.from_now(-7300))
    relay = f"{smtp.host}:{smtp.port}"
    with engine.begin() as connection:
        breaker.pause(connection, relay, "moving house", "ada")
        connection.execute(sa.insert(EmailEnvironment).values(id=1, name="production"))
        heartbeats.give(connection, WORKER, "host:1")
        connection.execute(sa.update(EmailHeartbeat).values(at=rows.from_now(-600)))
    smtp.script = on("MAIL", Reply(550, "5.7.1 not from here"))
    result = examine(OUTBOX_JOURNAL="journal", REDIS_URL="redis://ada:secret@127.0.0.1:1/0")
    assert result.exit_code == 1
    found = lines(result)
    assert found["fence"].startswith("WRONG this database holds the mail of 'production'")
    assert found["worker"].startswith("WRONG last heard of 10 min ago; start it (./start_celery_worker.sh)")
    assert found["beat"].startswith("WRONG not heard of for a day; start it (./start_celery_beat.sh)")
    assert found["queue"] == "WRONG the oldest due mail has waited for 2 h; `outbox why ID` says what for"
    assert found["relay's state"].startswith(f"WRONG {relay} was paused by ada (moving house); when it may have mail")
    assert "holds what the database was not told" in found["journal"]
    assert found["Redis"].startswith("WRONG redis://***@127.0.0.1:1/0 does not answer; start it")
    assert found[f"relay {relay}"].startswith("WRONG mail: 550 5.7.1 not from here; have the relay allow the sender")
    assert "8 things to mend, see WRONG." in result.output
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("settings", "name", "said"),
    [
        ({"DATABASE_URL": "postgresql://ada:secret@127.0.0.1:1/none"}, "database", "WRONG postgresql://***@"),
        ({"DATABASE_URL": "sqlite:///none.db"}, "database", "WRONG DATABASE_URL=sqlite:///none.db: there is no file"),
        ({"SMTP_PORT": "nonsense"}, "settings", "WRONG SMTP_PORT or MAIL_PORT='nonsense': "),
        ({"REDIS_URL": "amqp://ada:secret@rabbit//"}, "Redis", "- amqp://***@rabbit// is another broker"),
        ({"REDIS_URL": ""}, "Redis", "- REDIS_URL is not set here"),
        ({"SMTP_FROM_EMAIL": ""}, "sender", "- SMTP_FROM_EMAIL is not set"),
        ({"OUTBOX_ALLOW_RECIPIENTS": ""}, "fence", "fine OUTBOX_ALLOW_RECIPIENTS is set"),
        ({"OUTBOX_JOURNAL": "/proc/journal"}, "journal", "WRONG /proc/journal cannot be written"),
    ],
)
def test_settings(
    examine: Doctor, settings: dict[str, str], name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith("/proc"))  # root may do everything
    result = examine(**settings)
    assert lines(result)[name].startswith(said), result.output
    assert "secret" not in result.output


def test_a_database_without_our_tables(examine: Doctor, sqlite_url: str) -> None:
    migrations.downgrade(sqlite_url, "0004")
    found = lines(examine())
    assert found["migrations"] == "WRONG lacks 0005; run `python -m alembic upgrade heads`"
    assert "worker" not in found
    result = examine("--send-test", "ada@example.com")
    assert (result.exit_code, "A mail to" in result.output) == (1, False)


def test_a_relay_with_tls_and_a_login(examine: Doctor, authority: trustme.CA, trusted: str) -> None:
    with SmtpServer(starttls=certificate(authority), login=("shop", "secret")) as server:
        login = {"SMTP_PORT": str(server.port), "SMTP_USE_TLS": "true", "SMTP_USER": "shop", "SMTP_CA_FILE": trusted}
        name = f"relay {server.host}:{server.port}"
        found = lines(examine(**login, SMTP_PASSWORD="secret"))
        assert found[name].startswith("fine TLSv1.")
        assert "certificate until 3" in found[name]
        assert found[name].endswith(", shop logged in, sender shop@example.com taken")
        refused = examine(**login, SMTP_PASSWORD="wrong-password")
        assert lines(refused)[name].startswith("WRONG auth: 535 5.7.8 authentication failed; correct SMTP_USER")
        assert "wrong-password" not in refused.output
        assert {event.verb for event in server.events} == {
            "CONNECT",
            "EHLO",
            "STARTTLS",
            "AUTH",
            "MAIL",
            "RSET",
            "QUIT",
        }
        assert all(event.tls for event in server.events if event.verb in {"AUTH", "MAIL"})
    with SmtpServer(starttls=self_signed(), login=("shop", "secret")) as server:
        login |= {"SMTP_PORT": str(server.port)}
        found = lines(examine(**login, SMTP_PASSWORD="secret"))
        assert found[f"relay {server.host}:{server.port}"].startswith("WRONG tls: ")
        assert not [event for event in server.events if event.verb == "AUTH"]


def test_a_password_in_clear_text_is_wrong(smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    smtp.login = ("shop", "secret")
    settings = Settings.load(smtp_host=smtp.host, smtp_port=smtp.port, smtp_user="shop", smtp_password="secret")
    (endpoint,) = settings.endpoints
    assert next(relay_checks.relay(endpoint, settings)).state is Is.FINE  # it does not leave the machine
    monkeypatch.setattr(relay_checks, "_is_here", lambda _: False)
    assert next(relay_checks.relay(endpoint, settings)).said == "takes our password in clear text"


def test_what_hangs_or_breaks_keeps_nobody(examine: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    forever = threading.Event()

    def hang(_: Settings) -> Iterator[Finding]:
        forever.wait()
        return iter(())

    def break_() -> Iterator[Finding]:
        raise KeyError("a fault")

    monkeypatch.setattr(examining, "PATIENCE", 1.0)
    monkeypatch.setattr(dns_checks, "records", hang)
    monkeypatch.setattr(checks, "redis", break_)
    found = lines(examine())
    forever.set()
    assert found["DNS"] == "WRONG no answer within 1 s; see what it waits for"
    assert found["Redis"].startswith("WRONG KeyError: 'a fault'")
    assert found["database"].startswith("fine")


# --- DNS


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], list[str]]:
    """What is published."""
    published = {("shop.", "SOA"): ["here"]}
    monkeypatch.setattr(dns_checks, "look_up", lambda name, kind: published.get((name, kind), []))
    return published


def found_in_dns(**settings: Any) -> dict[str, tuple[Is, str]]:
    made = Settings.load(**({"smtp_from_email": "ada@mail.our.shop"} | settings))
    return {finding.name: (finding.state, finding.said) for finding in dns_checks.records(made)}


def test_records(zone: dict[tuple[str, str], list[str]], tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    file = tmp_path / "dkim.pem"
    formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(key.private_bytes(*formats))
    dkim = {"outbox_dkim_key_file": file, "outbox_dkim_selector": "s1"}
    assert {state for state, _ in found_in_dns(**dkim).values()} == {Is.WRONG}
    ours = dns_checks._public_key(file.read_bytes())
    zone |= {
        ("mail.our.shop", "A"): ["192.0.2.1"],
        ("mail.our.shop", "TXT"): ["v=spf1 mx -all", "something else"],
        ("s1._domainkey.mail.our.shop", "TXT"): [f"v=DKIM1; k=rsa; p={ours}"],
        ("_dmarc.our.shop", "TXT"): ["v=DMARC1; p=none"],
    }
    assert found_in_dns(**dkim) == {
        "DNS MX": (Is.FINE, "mail.our.shop takes mail: 192.0.2.1"),
        "DNS SPF": (Is.FINE, "v=spf1 mx -all"),
        "DNS DKIM": (Is.FINE, "s1._domainkey.mail.our.shop has our key"),
        "DNS DMARC": (Is.FINE, "_dmarc.our.shop: v=DMARC1; p=none"),
    }
    zone |= {
        ("mail.our.shop", "TXT"): ["v=spf1 mx -all", "v=spf1 a -all"],
        ("s1._domainkey.mail.our.shop", "TXT"): ["v=DKIM1; k=rsa; p=AAAA"],
    }
    found = found_in_dns(**dkim)
    assert found["DNS SPF"] == (Is.WRONG, "mail.our.shop has 2 SPF records")
    assert found["DNS DKIM"] == (Is.WRONG, "s1._domainkey.mail.our.shop has another key than ours")
    assert found_in_dns()["DNS DKIM"][0] is Is.UNKNOWN
    assert found_in_dns(**dkim | {"outbox_dkim_key_file": tmp_path / "none"})["DNS DKIM"][0] is Is.WRONG


def test_a_resolver_that_knows_nothing_says_nothing_of_us(
    zone: dict[tuple[str, str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    zone.clear()
    assert found_in_dns() == {
        "DNS": (
            Is.UNKNOWN,
            "mail.our.shop could not be looked up from here: the resolver of this machine knows no 'shop'",
        )
    }

    def away(*_: str) -> list[str]:
        raise Unreachable("timed out")

    monkeypatch.setattr(dns_checks, "look_up", away)
    assert found_in_dns()["DNS"] == (Is.UNKNOWN, "mail.our.shop could not be looked up from here: timed out")
    assert found_in_dns(smtp_from_email=None)["DNS"][0] is Is.UNKNOWN


# --- one mail, to where it stuck


def test_a_mail_that_arrives(examine: Doctor, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    living(engine)
    looks = 0

    def look(engine: sa.Engine, id_: int) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            deliver(engine, Settings.load())
        return original(engine, id_)

    original = following._look
    monkeypatch.setattr(following, "_look", look)
    result = examine("--send-test", "ada@example.com", "--json")
    assert result.exit_code == 0, result.output
    mail = json.loads(result.output)["test_mail"]
    assert mail["sent"]
    assert [step["what"].split(" after ")[0] for step in mail["steps"]] == [
        f"queued as mail {mail['id']}",
        f"{Settings.load().endpoints[0].name} took it",
    ]
    assert "was sent at" in mail["said"]


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ((), "No worker lives: start one (./start_celery_worker.sh), or send it yourself (`outbox drain`)"),
        ((WORKER,), "Beat is silent, and nobody else wakes a drain for a mail from the command line"),
        ((WORKER, BEAT), "`outbox.drain` does not get from beat to a worker: look at Redis"),
    ],
)
def test_a_mail_that_nobody_takes(examine: Doctor, engine: sa.Engine, kinds: tuple[str, ...], said: str) -> None:
    with engine.begin() as connection:
        for kind in kinds:
            heartbeats.give(connection, kind, kind)
    result = examine("--send-test", "ada@example.com", "--deadline", "0.1")
    assert result.exit_code == 1
    (stuck,) = [line for line in result.output.splitlines() if line.startswith("Stuck: ")]
    assert "has been due since" in stuck
    assert said in stuck
    assert "It stays in the queue: `outbox cancel 1` calls it back." in result.output


def test_a_mail_that_is_claimed_or_refused_or_in_trouble(examine: Doctor, engine: sa.Engine, smtp: SmtpServer) -> None:
    living(engine)
    settings = Settings.load(database_url=str(engine.url), smtp_port=smtp.port, smtp_host=smtp.host)
    steps: list[str] = []

    def follow(id_: int) -> str:
        journey = following.follow(engine, settings, id_, 0.01, lambda what, _: steps.append(what))
        assert not journey.arrived
        return journey.said

    (claimed,) = rows.leased(engine, Status.CLAIMED, "token")
    assert "Its task has not been taken: are the workers busy" in follow(claimed)
    assert steps == [f"queued as mail {claimed}", "claimed by worker-1"]
    with engine.begin() as connection:
        heartbeats.give(connection, WORKER, "host:1", queues=["celery"])
    assert "No worker that lives takes from the queue email.high" in follow(claimed)
    (deferred,) = rows.add(engine, attempts=1, last_error="dot: 4.2.0 busy", next_attempt_at=rows.from_now(60))
    with engine.begin() as connection:
        rows.add_attempt(connection, deferred, 1, Outcome.DEFERRED)
    assert follow(deferred).count(". ") <= 1
    assert steps[-1].startswith("relay:25 did not take it (deferred, dot) after ")
    with engine.begin() as connection:
        breaker.pause(connection, settings.endpoints[0].name, "moving house", "ada")
    (paused,) = rows.add(engine)
    assert 'because "moving house"' in follow(paused)


def test_misuse(examine: Doctor, engine: sa.Engine) -> None:
    assert examine("--deadline", "5").exit_code == 2
    result = examine("--send-test", "nobody")
    assert (result.exit_code, "to='nobody'" in result.output) == (2, True)
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(QueuedEmail)) == 0
