"""A believable small world for a first look: organisations, users, quizzes, projects. `flask seed` makes it.

All users have the same password. The same `now` makes the same world, so that what is shown of it can be repeated.
"""

from datetime import UTC, datetime, timedelta
from random import Random

import click
import sqlalchemy as sa
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app.accounts import passwords
from app.accounts.models import Organisation, Role, User
from app.categories import REMINDERS
from app.seed.people import ADMIN, HAS_ENOUGH_REMINDERS, ORGANISATIONS, PEOPLE
from app.seed.projects import add_projects
from app.seed.quizzes import add_attempts, add_quizzes
from outbox import subscriptions
from outbox.settings import Settings
from outbox.subscriptions import Subscription

_MEMBERS_SINCE = timedelta(days=120)


class NotEmpty(Exception):
    """There are users already, who would find strangers among them."""


def is_empty(session: Session) -> bool:
    """Whether there is no user yet."""
    return session.scalar(sa.select(User.id).limit(1)) is None


def seed(session: Session, settings: Settings, now: datetime, password: str) -> dict[str, int]:
    """Add the world to the session, which the caller commits; returns how much of what. Nobody is sent anything.

    Raises NotEmpty where there are users, ValueError for a password that nobody may have.
    """
    _refuse_users(session)
    passwords.check_new(password)
    random = Random(1815)  # noqa: S311 - a story, not a secret
    users = _users(now, passwords.hash_password(password))
    session.add_all(users.values())
    session.flush()
    quizzes = add_quizzes(session, now, random)
    attempts = add_attempts(session, list(users.values()), quizzes, now, random)
    projects, tasks = add_projects(session, users, now, random)
    if REMINDERS in settings.outbox_subscriptions:
        tired = Subscription(str(users[HAS_ENOUGH_REMINDERS].email), REMINDERS)
        subscriptions.unsubscribe(session.connection(), tired, "preference page")
    session.flush()
    return {
        "organisations": len(ORGANISATIONS),
        "users": len(users),
        "quizzes": len(quizzes),
        "attempts": attempts,
        "projects": projects,
        "tasks": tasks,
    }


def _refuse_users(session: Session) -> None:
    if not is_empty(session):
        raise NotEmpty(
            "This database has users already, and the seeded ones are for an empty one: nothing was changed."
        )


def _users(now: datetime, password_hash: str) -> dict[str, User]:
    """By username. One hash for all: each takes 40 ms, and its salt would hide nothing, since all know the password."""
    organisations = {name: Organisation(name=name) for name in ORGANISATIONS}
    return {
        person.username: User(
            username=person.username,
            name=person.name,
            email=f"{person.username}@example.com" if person.has_address else None,
            organisation=organisations[person.organisation],
            role=Role.ADMIN if person.username == ADMIN else Role.USER,
            password_hash=password_hash,
            time_zone=person.time_zone,
            last_login_at=now - timedelta(days=person.seen) if person.seen is not None else None,
            created_at=now - _MEMBERS_SINCE,
        )
        for person in PEOPLE
    }


@click.command("seed")
@with_appcontext
def command() -> None:
    """Fill an empty database with a small world to look at.

    The users' password is ADMIN_PASSWORD; where that is not set, it is asked for.
    """
    settings, sessions = (current_app.extensions[name] for name in ("settings", "sessions"))
    given = settings.admin_password
    session: Session
    try:
        with sessions() as session:  # before anybody thinks of a password, and not while they do
            _refuse_users(session)
        password = given.get_secret_value() if given else click.prompt("Password of all users", hide_input=True)
        with sessions.begin() as session:
            counts = seed(session, settings, datetime.now(UTC), password)
    except (NotEmpty, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(", ".join(f"{number} {name}" for name, number in counts.items()) + ".")
    click.echo(f"Log in as {ADMIN} or as {PEOPLE[1].username}; all have the same password.")
