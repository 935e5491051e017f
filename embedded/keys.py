"""What nobody should have to invent for a first look: a password and keys, made once and remembered."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography.fernet import Fernet

from embedded.errors import StartError

_MAKERS = {
    "ADMIN_PASSWORD": lambda: secrets.token_urlsafe(12),
    "FLOWER_BASIC_AUTH": lambda: f"admin:{secrets.token_urlsafe(12)}",
    "SECRET_KEY": lambda: secrets.token_urlsafe(32),
    "OUTBOX_SIGNING_KEYS": lambda: secrets.token_urlsafe(32),
    "OUTBOX_ENCRYPTION_KEYS": lambda: Fernet.generate_key().decode(),
}


def recall_keys(given: Mapping[str, str], memory: Path) -> dict[str, str]:
    """Those that the environment has not, from `memory`; what that lacks is made, and added to it.

    They must not change while the mail that was encrypted with them, or the links that were signed with them, are
    about: a file that makes no sense is a StartError, and not a reason to make others.
    """
    known = _read(memory)
    missing = [name for name in _MAKERS if not given.get(name) and name not in known]
    if missing:
        known |= {name: _MAKERS[name]() for name in missing}
        _write(memory, known)
    return {name: known[name] for name in _MAKERS if not given.get(name)}


def _read(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StartError(
            f"{memory} cannot be read ({error}): restore it, or remove it and lose what it opens."
        ) from error
    if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
        raise StartError(f"{memory} holds no names and keys: restore it, or remove it and lose what it opens.")
    return known


def _write(memory: Path, known: Mapping[str, str]) -> None:
    """For its owner's eyes alone, and whole or not at all."""
    new = memory.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(json.dumps(known, indent=2) + "\n")
    new.replace(memory)
