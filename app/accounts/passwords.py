"""Passwords: kept as Argon2 hashes, and compared in a time that does not say whether there is such a user."""

from functools import cache
from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.accounts.models import User

SHORTEST = 12
"""Characters. Length is what makes a password hard to guess; rules about digits only make it hard to remember."""

LONGEST = 1000

_hasher = PasswordHasher()
"""The library's parameters: RFC 9106's for servers with little memory, 64 MiB and about 40 ms."""

_room = BoundedSemaphore(4)
"""Hashes at a time in this process: a hundred logins at once must not take 6 GiB."""


def check_new(password: str) -> None:
    """Raises ValueError if it must not become anybody's."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise ValueError(
            f"a password of {len(password)} characters: use {SHORTEST} or more, a few words make a good one"
            if len(password) < SHORTEST
            else f"a password of {len(password)} characters: use at most {LONGEST}"
        )


def hash_password(password: str) -> str:
    """For `User.password_hash`."""
    with _room:
        return _hasher.hash(password)


def verify(user: User | None, password: str) -> bool:
    """Whether it is the user's. Nobody, and a hash that is none, take as long as a wrong password."""
    kept = user.password_hash if user is not None else _nobodys()
    with _room:
        try:
            return _hasher.verify(kept, password) and user is not None
        except VerificationError:
            return False
        except InvalidHashError:
            pass
    return verify(None, password)


def is_outdated(user: User) -> bool:
    """Whether the hash was made with other parameters than today's: then a login, which has the password, renews it."""
    return _hasher.check_needs_rehash(user.password_hash)


@cache
def _nobodys() -> str:
    return hash_password("")
