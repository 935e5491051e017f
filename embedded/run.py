"""`./start_services.sh`: from nothing to running services, and a few mails that prove it."""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import sqlalchemy as sa
from dotenv import dotenv_values, set_key
from flask import Flask
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console

import migrations
from app import create_app
from app.settings import AppSettings
from embedded import demo, world
from embedded.errors import StartError
from embedded.keys import recall_keys
from embedded.maildir import Maildir
from embedded.ports import choose_ports, recall_ports
from embedded.services import Plan, plan
from embedded.stop import stop
from embedded.supervision import Supervisor
from embedded.verdict import judge
from embedded.waiting_mail import refuse_waiting_mail
from outbox.database import create_engine
from outbox.errors import SettingsError

_READY_SECONDS = 120
"""For every service to answer. It takes five; twenty times as long on a machine that is busy with something else."""

_PING_SECONDS = 0.3
"""How long to collect the workers' answers; then they are asked again."""


def start(root: Path, console: Console, *, detach: bool) -> None:
    """Start everything, show that it works, and stay until interrupted; with `detach`, return and leave it running.

    Whatever goes wrong on the way, nothing is left running. Raises StartError, whose sentence says what to do.
    """
    var = root / "var"
    (var / "run").mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor(root)
    with _alone(var / "run" / "start.lock"):
        began = time.monotonic()
        runs = supervisor.is_running()
        chosen = _plan(var, recall_ports(_memory(var)) if runs else choose_ports(_memory(var)))
        keys = recall_keys(_given(), _keys(var))
        os.environ |= chosen.environment | keys
        _tell_other_commands(var / "run" / "environment", chosen.environment | keys)
        settings = _settings()
        if runs:
            console.print("It is running already:")
            _show_urls(console, chosen, settings, keys)
            return
        if "REDIS_URL" not in chosen.environment:
            _check_redis(settings.redis_url)
        if "SMTP_HOST" not in chosen.environment:
            _own_address(settings)
        _prepare_database(settings, console, to_inbox="SMTP_HOST" in chosen.environment)
        try:
            _bring_up(supervisor, chosen, console)
            app = create_app(settings, pages=False)
            _wait_for_workers(app, supervisor, console)
            console.print(f"Everything runs, after {time.monotonic() - began:.1f} s.")
            _demonstrate(app, chosen, var, supervisor, console)
        except BaseException:
            stop(supervisor, console)
            raise
    _show_urls(console, chosen, settings, keys)
    if detach:
        console.print("It stays running: ./stop_services.sh stops it.")
    else:
        _stay(supervisor, console)


def _plan(var: Path, ports: Mapping[str, int]) -> Plan:
    return plan(_given(), ports, var)


def _given() -> dict[str, str]:
    """What the file .env says and, before it, the environment."""
    from_file = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    return from_file | dict(os.environ)


def _settings() -> AppSettings:
    """The environment's, and a database's address that can be one."""
    try:
        settings = AppSettings.load()
        create_engine(settings.database_url).dispose()
    except SettingsError as error:
        raise StartError(f"The settings are wrong: {error}. Correct the environment or the file .env.") from error
    return settings


def _tell_other_commands(file: Path, environment: Mapping[str, str]) -> None:
    """What only this start knows, such as the ports: `flask --env-file var/run/environment tasks run NAME` reads it."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)  # there are keys in it
    for name, value in environment.items():
        set_key(file, name, value)


def _memory(var: Path) -> Path:
    return var / "run" / "ports.json"


def _keys(var: Path) -> Path:
    return var / "keys.json"  # beside the database that they open, rather than with what a run leaves behind


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two starts at once would each find the other's ports free."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartError("Another ./start_services.sh is starting here: wait for it.") from error
        yield


def _prepare_database(settings: AppSettings, console: Console, *, to_inbox: bool) -> None:
    """Its tables; and users, unless mail to people who do not exist would go out to a real relay."""
    url = settings.database_url
    try:
        if to_inbox:
            refuse_waiting_mail(url)
        migrations.upgrade(url)
        if to_inbox and (made := world.people(settings)):
            seeded = ", ".join(f"{number} {name}" for name, number in made.items())
            console.print(f"Seeded: {seeded}.", highlight=False, soft_wrap=True)
    except sa.exc.SQLAlchemyError as error:
        shown = sa.make_url(url).render_as_string()
        reason = str(error.orig if isinstance(error, sa.exc.DBAPIError) else error).partition("\n")[0]
        raise StartError(
            f"DATABASE_URL={shown} cannot be migrated: {reason}. Check the address and the server."
        ) from error


def _check_redis(url: str) -> None:
    """One that is not ours: ask it before anything depends on it."""
    try:
        with Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except RedisError as error:
        raise StartError(
            f"The Redis that REDIS_URL names does not answer ({error}): start it, or unset REDIS_URL."
        ) from error


def _bring_up(supervisor: Supervisor, chosen: Plan, console: Console) -> None:
    with console.status("Starting ...") as status:
        supervisor.start(chosen.services, os.environ)
        deadline = time.monotonic() + _READY_SECONDS
        while waiting := [name for name, url in chosen.urls.items() if not _answers(url)]:
            status.update(f"Starting: {', '.join(waiting)} ...")
            _look_for_trouble(supervisor, deadline, f"{waiting[0]} does not answer")


def _wait_for_workers(app: Flask, supervisor: Supervisor, console: Console) -> None:
    control = app.extensions["celery"].control
    deadline = time.monotonic() + _READY_SECONDS
    with console.status("Starting: workers ..."):
        while True:
            # A worker's node is named after its pid; others may listen to the same Redis.
            ours = {f"outbox-{service.pid}" for service in supervisor.states() if service.name.startswith("worker-")}
            with suppress(OperationalError):  # the broker is not there yet
                answers = control.ping(timeout=_PING_SECONDS)
                if ours <= {node.partition("@")[0] for answer in answers for node in answer}:
                    return
            _look_for_trouble(supervisor, deadline, "the workers do not answer")


def _look_for_trouble(supervisor: Supervisor, deadline: float, problem: str) -> None:
    if died := supervisor.deaths():
        raise StartError(f"{died[0]} does not start. The end of its log:\n{supervisor.tail(died[0])}")
    if time.monotonic() > deadline:
        raise StartError(f"After {_READY_SECONDS} s {problem}: look into var/log.")
    time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):  # noqa: S310 - our own http:// on loopback
            return True
    except HTTPError:
        return True  # not pleased, but there
    except OSError:
        return False


def _demonstrate(app: Flask, chosen: Plan, var: Path, supervisor: Supervisor, console: Console) -> None:
    """Queue mails, wait for them, show what became of them. Raises StartError if that is not what should."""
    settings: AppSettings = app.extensions["settings"]
    inbox = Maildir(var / "inbox") if "Inbox" in chosen.urls else None
    if inbox is None:
        relays = " or ".join(endpoint.name for endpoint in settings.endpoints)
        console.print(f"The demo's mail goes through {relays}, all of it to {_own_address(settings)}.")
    mails = demo.queue(app, None if inbox else _own_address(settings))
    with console.status("") as status:
        rows = demo.wait(app, mails, lambda sent, of: status.update(f"Delivered: {sent} of {of} ..."))
    verdict = judge(app, mails, rows, inbox)
    console.print(verdict.table)
    if verdict.problems:
        logs = "\n".join(f"{worker}:\n{supervisor.tail(worker)}" for worker in ("worker-urgent", "worker-bulk"))
        raise StartError(f"{'; '.join(verdict.problems)}. The end of the workers' logs:\n{logs}")
    console.print(
        f"The first was delivered {verdict.seconds[0]:.2f} s after its commit, the last {verdict.seconds[-1]:.2f} s."
    )


def _own_address(settings: AppSettings) -> str:
    if settings.smtp_from_email is None:
        raise StartError(
            "SMTP_HOST or OUTBOX_RELAYS is set and SMTP_FROM_EMAIL is not: set it to the address that your mail is "
            "from."
        )
    return settings.smtp_from_email


def _show_urls(console: Console, chosen: Plan, settings: AppSettings, keys: Mapping[str, str]) -> None:
    logins = {"Flower": _flower_login(keys), "Admin": world.login(settings, keys)}
    for name, url in (chosen.urls | {"Admin": f"{chosen.urls['Application']}admin/"}).items():
        console.print(f"  {name:<12} {url}", highlight=False, markup=False, style="bold")
        if name in logins:
            console.print(f"{'':15}{logins[name]}", highlight=False, markup=False, soft_wrap=True)


def _flower_login(keys: Mapping[str, str]) -> str:
    user, _, password = keys.get("FLOWER_BASIC_AUTH", "").partition(":")
    return f"user: {user}, password: {password}" if user else "user and password: as FLOWER_BASIC_AUTH says"


def _stay(supervisor: Supervisor, console: Console) -> None:
    """Until interrupted, or until somebody else stops the services."""
    given_up: set[str] = set()
    try:
        console.print("Ctrl-C stops it all.")  # and does, from the first moment that somebody may read it
        while supervisor.is_running():
            for service in supervisor.states():
                if service.state == "FATAL" and service.name not in given_up:
                    given_up.add(service.name)
                    console.print(f"{service.name} dies again and again; the end of its log:", style="red")
                    console.print(supervisor.tail(service.name), markup=False, highlight=False)
            time.sleep(1)
    except KeyboardInterrupt:
        stop(supervisor, console)
    else:
        console.print("Everything was stopped from elsewhere.")
