"""What the inbox keeps: a Maildir of messages exactly as received, and beside it the envelope of each.

The envelope (who was named in MAIL and RCPT) stays out of the message, as it does on the wire: that is how one sees
that a bcc was delivered and that no header says so.
"""

import json
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser, Parser
from functools import lru_cache
from pathlib import Path

_KEY = re.compile(r"\d{20}-[0-9a-f]{8}")
_HEADERS = 256 * 1024  # bytes read for a line of the list; a message's headers are a few kilobytes


@dataclass(frozen=True)
class Envelope:
    """MAIL FROM and RCPT TO, and when the message was here."""

    sender: str
    recipients: list[str]
    received_at: str


@dataclass(frozen=True)
class Received:
    """A message in the inbox."""

    key: str
    path: Path
    envelope: Envelope
    headers: EmailMessage

    @property
    def size(self) -> int:
        """In bytes, as received."""
        return self.path.stat().st_size

    @property
    def raw(self) -> bytes:
        """As received, line ends included."""
        return self.path.read_bytes()

    def parsed(self) -> EmailMessage:
        """The whole message, attachments included."""
        return BytesParser(policy=policy.default).parsebytes(self.raw)


class Maildir:
    """Any number of processes may read and write at once: a message appears whole, or not at all, and never changes.

    Nothing is flushed to the disk before it is accepted: a killed process loses nothing, a power cut may. The record of
    what was sent is the outbox's, not this inbox's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in ("tmp", "new", "cur", "envelopes"):
            (path / folder).mkdir(parents=True, exist_ok=True)

    def add(self, sender: str, recipients: list[str], message: bytes) -> str:
        """Keep a message; returns its key. Keys sort by time."""
        key = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        envelope = Envelope(sender, recipients, datetime.now(UTC).isoformat(timespec="milliseconds"))
        (self.path / "envelopes" / f"{key}.json").write_text(json.dumps(asdict(envelope)))
        (self.path / "tmp" / key).write_bytes(message)
        (self.path / "tmp" / key).rename(self.path / "new" / key)
        return key

    def newest(self, limit: int) -> Iterator[Received]:
        """The newest first."""
        for _, path in sorted(self._paths(), reverse=True)[:limit]:
            yield _read(path)

    def count(self) -> int:
        """How many messages there are."""
        return sum(1 for _ in self._paths())

    def get(self, key: str) -> Received | None:
        """The message of that key, if there is one."""
        return next((_read(path) for found, path in self._paths() if found == key), None)

    def _paths(self) -> Iterator[tuple[str, Path]]:
        for folder in ("new", "cur"):  # a mail reader moves what it has seen to `cur` and appends its flags
            for path in (self.path / folder).iterdir():
                if key := _KEY.match(path.name):
                    yield key[0], path


@lru_cache(maxsize=2048)
def _read(path: Path) -> Received:
    key = path.name.partition(":")[0]
    envelope = Envelope(**json.loads((path.parents[1] / "envelopes" / f"{key}.json").read_text()))
    with path.open("rb") as file:
        # As text: from bytes, the parser shows no address in UTF-8 (RFC 6532).
        head = file.read(_HEADERS).decode("utf-8", "replace")
    headers = Parser(policy=policy.default).parsestr(head, headersonly=True)
    return Received(key, path, envelope, headers)
