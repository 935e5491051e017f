"""Organisations, their users, and the users' tokens for the API."""

from datetime import datetime
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from flask_login import UserMixin
from sqlalchemy.orm import Mapped, mapped_column, relationship, validates

from app.database import Base, one_of
from outbox.database import UtcDateTime, utcnow


class Role(StrEnum):
    """What somebody may do."""

    ADMIN = "admin"
    """Everything, in every organisation."""
    USER = "user"


class Organisation(Base):
    """Users of one organisation see its projects."""

    __tablename__ = "organisations"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.Text, unique=True)


class User(Base, UserMixin):  # type: ignore[misc]  # Flask-Login ships no types
    """Somebody who can log in, by username or by e-mail address."""

    __tablename__ = "users"
    __table_args__ = (
        one_of("role", Role),
        # Else somebody's username could be another's address, and both log in with it.
        sa.CheckConstraint("username NOT LIKE '%@%'", name="username"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
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

    @validates("email", "username")
    def _in_lower_case(self, _: str, value: str | None) -> str | None:
        return value and value.strip().lower()

    @validates("time_zone")
    def _zone_exists(self, _: str, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{value!r} is no time zone: use a name such as UTC or Europe/Berlin") from error
        return value


class ApiToken(Base):
    """A bearer token of a user's. Only its digest is kept: whoever reads the table cannot use it."""

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(sa.Text)
    """What it is for, in its owner's words."""
    digest: Mapped[str] = mapped_column(sa.Text, unique=True)
    """SHA-256; of 32 random bytes, which no dictionary holds."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=utcnow())

    user: Mapped[User] = relationship()
