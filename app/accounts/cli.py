"""`flask users`: accounts without a page, for whoever runs this. The first admin is made here."""

import sys
from typing import Any

import click
import sqlalchemy as sa
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy.orm import Session, joinedload

from app.accounts import passwords, tokens
from app.accounts.models import Organisation, Role, User
from outbox.addresses import parse_mailbox
from outbox.cli.surroundings import explain
from outbox.cli.terminal import RemarkTable, cell, put
from outbox.printable import safe


class _Users(AppGroup):
    """Turns what the database and our checks raise into a sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            raise click.UsageError(safe(str(error))) from error
        except sa.exc.SQLAlchemyError as error:
            raise click.ClickException(safe(explain(error))) from error


users = _Users("users", help="Accounts: make them, list them, give them API tokens.")


@users.command()
@click.argument("username")
@click.option("--email", help="Where their mail goes. Without it they get none.")
@click.option("--organisation", required=True, help="Made, if there is none of that name.")
@click.option("--name", help="What mails and pages call them. [default: the username]")
@click.option("--time-zone", default="UTC", show_default=True, help="Such as Europe/Berlin.")
@click.option("--admin", is_flag=True, help="May do everything, in every organisation.")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of standard input.")
def add(
    *,
    username: str,
    email: str | None,
    organisation: str,
    name: str | None,
    time_zone: str,
    admin: bool,
    password_stdin: bool,
) -> None:
    """Make an account. Asks for its password."""
    user = User(
        username=username,
        name=name or username,
        email=parse_mailbox("--email", email).address if email else None,
        time_zone=time_zone,
        role=Role.ADMIN if admin else Role.USER,
    )
    added = user.username
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else _ask()
    passwords.check_new(password)
    user.password_hash = passwords.hash_password(password)
    try:
        with _sessions().begin() as session:
            _look_for_another(session, user)
            user.organisation = _organisation(session, organisation)
            session.add(user)
    except sa.exc.IntegrityError as error:
        raise click.ClickException("somebody else made the same account at this moment: list them") from error
    click.echo(safe(f"{added} can log in."))


@users.command("list")
def list_() -> None:
    """All accounts, by username."""
    lines = []
    with _sessions()() as session:
        for user in session.scalars(sa.select(User).options(joinedload(User.organisation)).order_by(User.username)):
            seen = user.last_login_at and f"{user.last_login_at:%Y-%m-%d %H:%M}"
            columns = (user.username, user.role, user.time_zone, seen)
            who = (user.name, user.email or "no address", user.organisation.name)
            lines.append(([cell(value) for value in columns], ", ".join(who)))
    put(RemarkTable(("Username", "Role", "Time zone", "Last login (UTC)"), "Who", lines, whole=True))


@users.command()
@click.argument("username")
@click.argument("purpose")
def token(username: str, purpose: str) -> None:
    """Make an API token for a user, and print it. It cannot be shown again."""
    with _sessions().begin() as session:
        user = session.scalar(sa.select(User).where(User.username == username.strip().lower()))
        if user is None:
            raise click.ClickException(safe(f"there is no user {username!r}: flask users list has them all"))
        made = tokens.issue(session, user, purpose)
    click.echo(made)


def _look_for_another(session: Session, user: User) -> None:
    for column, value in ((User.username, user.username), (User.email, user.email)):
        if value is not None and session.scalar(sa.select(User.id).where(column == value)) is not None:
            raise click.ClickException(safe(f"{value} is taken: use another, or change that account"))


def _organisation(session: Session, name: str) -> Organisation:
    found = session.scalar(sa.select(Organisation).where(Organisation.name == name))
    return found or Organisation(name=name)


def _ask() -> str:
    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return password


def _sessions() -> Any:
    return current_app.extensions["sessions"]
