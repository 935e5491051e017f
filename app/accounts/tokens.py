"""API tokens: 32 random bytes that their owner sees once, and we know by their digest.

A token without scopes is its user's stand-in: what they may do in a browser it may do, too, but for what is about the
account itself. One with scopes may do what these say, at the mail API, and nothing else anywhere.
"""

import secrets
from collections.abc import Collection
from enum import StrEnum
from hashlib import sha256

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload

from app.accounts.models import ApiToken, User

_PREFIX = "obx_"
"""By which those who look for leaked secrets know ours."""


class Scope(StrEnum):
    """What the mail API asks of a token."""

    SEND = "mail:send"  # queue mail, to anybody, from any sender that the relay lets pass
    READ = "mail:read"  # what became of any mail, whoever queued it
    CANCEL = "mail:cancel"  # any mail that still waits


def issue(session: Session, user: User, name: str, scopes: Collection[str] = ()) -> str:
    """Make a token for whatever its owner calls it. Returns it: nobody will be able to read it again.

    ValueError for a name that is none, for a scope that there is not, and for scopes of a user who may not do such
    things. The caller commits.
    """
    for scope in scopes:
        if scope not in set(Scope):
            raise ValueError(f"{scope!r} is no scope: use {', '.join(Scope)}")
    if scopes and not user.is_admin:
        raise ValueError(f"only an admin's tokens can have scopes, and {user.username} is none")
    token = f"{_PREFIX}{secrets.token_urlsafe(32)}"
    session.add(ApiToken(user_id=user.id, name=name, digest=_digest(token), scopes=" ".join(sorted(set(scopes)))))
    return token


def find(session: Session, token: str) -> ApiToken | None:
    """With its user."""
    query = sa.select(ApiToken).options(joinedload(ApiToken.user)).where(ApiToken.digest == _digest(token))
    return session.scalar(query)


def allows(token: ApiToken, scope: Scope) -> bool:
    """Whether it may do that at the mail API, by what its user is now: who is no admin any more may not."""
    return token.user.is_admin and (not token.scopes or scope in token.scopes.split())


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
