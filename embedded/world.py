"""Somebody to log in as: a small world for a database without users, and the line that says who lives there."""

from collections.abc import Mapping
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts import passwords
from app.accounts.models import User
from app.seed import is_empty, seed
from app.settings import AppSettings
from embedded.errors import StartError
from outbox.database import create_engine

_ADMIN, _USER = "admin", "ada"


def people(settings: AppSettings) -> dict[str, int] | None:
    """Seed a database without users; returns how much of what was made. Raises StartError for an unfit password."""
    assert settings.admin_password is not None  # made, where none is set
    engine = create_engine(settings.database_url)
    try:
        with Session(engine) as session, session.begin():
            if not is_empty(session):
                return None
            return seed(session, settings, datetime.now(UTC), settings.admin_password.get_secret_value())
    except ValueError as error:
        raise StartError(f"ADMIN_PASSWORD is {error}.") from error
    finally:
        engine.dispose()


def login(settings: AppSettings, made: Mapping[str, str]) -> str:
    """Who may log in, and with what. A password that we made is told; one that the environment has is not."""
    engine = create_engine(settings.database_url)
    try:
        with Session(engine) as session:
            users = {
                user.username: user
                for user in session.scalars(sa.select(User).where(User.username.in_((_ADMIN, _USER))))
            }
    finally:
        engine.dispose()
    admin = users.get(_ADMIN)
    if admin is None:
        return "Nobody is called admin: make one with flask users add admin --admin --organisation NAME"
    assert settings.admin_password is not None
    who = f"user: {_ADMIN} (or {_USER})" if _USER in users else f"user: {_ADMIN}"
    if not passwords.verify(admin, settings.admin_password.get_secret_value()):
        return f"{who}, password: another than ADMIN_PASSWORD, which is for users that are made"
    return f"{who}, password: {made.get('ADMIN_PASSWORD', 'as ADMIN_PASSWORD says')}"
