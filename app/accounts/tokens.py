"""API tokens: 32 random bytes that their owner sees once, and we know by their digest."""

import secrets
from hashlib import sha256

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts.models import ApiToken, User

_PREFIX = "obx_"
"""By which those who look for leaked secrets know ours."""


def issue(session: Session, user: User, name: str) -> str:
    """Make a token for whatever its owner calls it. Returns it: nobody will be able to read it again.

    ValueError for a name that is none. The caller commits.
    """
    token = f"{_PREFIX}{secrets.token_urlsafe(32)}"
    session.add(ApiToken(user_id=user.id, name=name, digest=_digest(token)))
    return token


def owner(session: Session, token: str) -> User | None:
    """Whose it is."""
    return session.scalar(sa.select(User).join(ApiToken).where(ApiToken.digest == _digest(token)))


def of(session: Session, user: User) -> list[ApiToken]:
    """All of a user's, the newest first."""
    return list(session.scalars(sa.select(ApiToken).where(ApiToken.user_id == user.id).order_by(ApiToken.id.desc())))


def revoke(session: Session, user: User, id_: int) -> bool:
    """End one of the user's own. False: they have none of that id. The caller commits."""
    return (
        session.scalar(
            sa.delete(ApiToken).where(ApiToken.id == id_, ApiToken.user_id == user.id).returning(ApiToken.id)
        )
        is not None
    )


def _digest(token: str) -> str:
    return sha256(token.encode(errors="surrogatepass")).hexdigest()
