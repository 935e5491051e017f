"""Organisations, their users, and the users' tokens for the API."""

import re
import unicodedata
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from flask import current_app
from flask_login import UserMixin
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship, validates

from app.database import Base, one_of
from outbox import subscriptions
from outbox.database import BigId, UtcDateTime, utcnow

LONGEST_NAME = 100
"""Characters of what somebody or something is called."""

_USERNAME = re.compile(r"[^\s@\x00-\x1f\x7f]{1,64}")


class Role(StrEnum):
    """What somebody may do."""

    ADMIN = "admin"
    """Everything, in every organisation."""
    USER = "user"


class Organisation(Base):
    """Users of one organisation see its projects."""

    __tablename__ = "organisations"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.Text, unique=True)


class User(Base, UserMixin):  # type: ignore[misc]  # Flask-Login ships no types
    """Somebody who can log in, by username or by e-mail address."""

    __tablename__ = "users"
    __table_args__ = (
        one_of("role", Role),
        # Else somebody's username could be another's address, and both log in with it.
        sa.CheckConstraint("username NOT LIKE '%@%'", name="username"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    organisation_id: Mapped[int] = mapped_column(sa.ForeignKey("organisations.id"), index=True)
    username: Mapped[str] = mapped_column(sa.Text, unique=True)
    name: Mapped[str] = mapped_column(sa.Text)
    """What mails and pages call them."""
    email: Mapped[str | None] = mapped_column(sa.Text, unique=True)
    """In lower case. Who has none gets no mail."""
    role: Mapped[str] = mapped_column(sa.Text, default=Role.USER)
    password_hash: Mapped[str] = mapped_column(sa.Text)
    """Argon2, in its own notation."""
    time_zone: Mapped[str] = mapped_column(sa.Text, default="UTC")
    """An IANA name: when a day or a month of theirs begins."""
    last_login_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_reminder_sent: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())

    organisation: Mapped[Organisation] = relationship()

    @property
    def is_admin(self) -> bool:
        """Whether they may do everything."""
        return self.role == Role.ADMIN

    @property
    def email_preferences(self) -> dict[str, bool]:
        """Subscription -> whether they want it; {} without an address. `outbox.subscriptions.prefer` changes it.

        Nothing of it is kept here: what somebody does not want is a line in `email_suppressions`, however it got there.
        """
        session = Session.object_session(self)
        assert session is not None
        if self.email is None:
            return {}
        return subscriptions.preferences(session.connection(), current_app.extensions["settings"], self.email)

    def get_id(self) -> str:
        """What a session knows them by. It changes with the password, and so ends with it."""
        return f"{self.id}:{sha256(self.password_hash.encode()).hexdigest()[:32]}"

    @validates("email")
    def _in_lower_case(self, _: str, value: str | None) -> str | None:
        return value and value.strip().lower()

    @validates("username")
    def _can_be_typed(self, _: str, value: str) -> str:
        value = value.strip().lower()
        if not _USERNAME.fullmatch(value):
            raise ValueError(f"{value!r} is no username: use up to 64 characters, no blank and no @ among them")
        return value

    @validates("name")
    def _one_line(self, _: str, value: str) -> str:
        return _called(value)

    @validates("time_zone")
    def _zone_exists(self, _: str, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder, "Europe", or far too long
            raise ValueError(f"{value!r} is no time zone: use a name such as UTC or Europe/Berlin") from error
        return value


class ApiToken(Base):
    """A bearer token of a user's. Only its digest is kept: whoever reads the table cannot use it."""

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(sa.Text)
    """What it is for, in its owner's words."""
    digest: Mapped[str] = mapped_column(sa.Text, unique=True)
    """SHA-256; of 32 random bytes, which no dictionary holds."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())
    scopes: Mapped[str] = mapped_column(sa.Text, server_default="")
    """What it may do, separated by blanks. Empty: what its user may do in a browser."""

    user: Mapped[User] = relationship()

    @validates("name")
    def _one_line(self, _: str, value: str) -> str:
        return _called(value)


def _called(name: str) -> str:
    """On one line: it will stand in the headers of mails."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= LONGEST_NAME:
        raise ValueError(f"a name of {len(name)} characters: use 1 to {LONGEST_NAME}")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise ValueError(f"{name!r} has a character in it that cannot be shown: leave it out")
    return name
