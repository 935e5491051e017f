"""The rows of one task, as mails to be sent: a query for the rows, one more if any of them has attachments."""

import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from outbox.addresses import bare_address
from outbox.claims import standing_columns
from outbox.database import Statement, UtcDateTime, Words, reading
from outbox.errors import KeyMissing
from outbox.logs import tell
from outbox.message import File, Message, Part, encoded
from outbox.models import EmailContent
from outbox.retry import Standing
from outbox.sealing import Safe, unlock
from outbox.signing import Signer
from outbox.states import OnUncertain
from outbox.superseding import superseded_by

log = logging.getLogger(__name__)

_KEPT_BYTES = 32 * 1024 * 1024
"""Encoded files that a chunk keeps for its later mails: all that one mail may carry, by the default of
OUTBOX_MAX_MESSAGE_BYTES."""


_AHEAD_BYTES = 512 * 1024
"""Of text and HTML that is composed in one go: a hundred usual mails, and little beside what a worker takes anyway."""


@dataclass(slots=True)
class Mail:
    """A claimed row, and what it takes to send it."""

    id: int
    token: str
    """The chunk's until `begin`, the conversation's own from then on."""
    next_token: str | None = field(default=None, init=False)
    """The conversation's own, while it is not certain which of the two the row bears."""
    number: int
    """The attempt's."""
    recipient: str
    category: str | None
    request_id: str | None
    priority: int
    content_id: int
    relay: str | None
    """The one relay that may have had it before, and must be the one to have it again."""
    lease_left: float
    """Seconds, when it was loaded."""
    loaded: Standing
    message: Message
    files: Sequence["FileLink"]
    superseded_by: int | None
    """A newer mail that makes this one stale."""
    suppressed: str | None = None
    """Why its recipient must not get mail."""
    sensitive: bool = False
    unreadable: str | None = None
    """Why what it says cannot be read now."""
    loaded_at: float = field(default_factory=time.monotonic)

    @property
    def standing(self) -> Standing:
        """As it is now: a chunk may have taken minutes to come to this mail."""
        waited = time.monotonic() - self.loaded_at
        expires_in = None if self.loaded.expires_in is None else self.loaded.expires_in - waited
        return self.loaded._replace(age=self.age, expires_in=expires_in)

    @property
    def age(self) -> float:
        """Seconds since it could first be tried."""
        return self.loaded.age + time.monotonic() - self.loaded_at

    @property
    def sender(self) -> str:
        """The envelope sender."""
        return bare_address(self.message.sender)

    @property
    def expired(self) -> bool:
        """Past its own `expires_at`."""
        return self.loaded.expires_in is not None and self.loaded.expires_in <= time.monotonic() - self.loaded_at


@dataclass(frozen=True, slots=True)
class FileLink:
    """An attachment whose bytes are fetched when its turn comes: a chunk of 100 large mails must fit in memory."""

    sha256: str
    filename: str = field(repr=False)
    content_type: str
    inline_id: str | None
    key: str | None = field(default=None, repr=False)
    """That its bytes are locked with: those of a sensitive mail."""


def _rows(sql: Words) -> str:
    return f"""
SELECT q.id, q.claims, q.recipient, q.category, q.request_id, q.priority, q.attempts, q.max_attempts,
       q.on_uncertain, q.relay, -({sql.seconds_since("q.lease_expires_at")}) AS lease_left, {standing_columns(sql)},
       {superseded_by("q")} AS superseded_by,
       c.id AS content_id, c.message_id, c.date, c.sender, c.to_header, c.cc_header, c.reply_to, c.subject, c.text,
       c.html, c.headers, c.sensitive, c.sealed,
       EXISTS (SELECT 1 FROM email_attachments AS f WHERE f.content_id = c.id) AS has_files
  FROM email_queue AS q JOIN email_contents AS c ON c.id = q.content_id
 WHERE q.id {sql.among(sql.numbers(":ids"))} AND q.claim_token = :token AND q.status = 'claimed'"""


def _links(sql: Words) -> str:
    return f"""
SELECT content_id, sha256, filename, content_type, inline_id FROM email_attachments
 WHERE content_id {sql.among(sql.numbers(":ids"))} ORDER BY content_id, position"""


_ROWS = Statement(_rows, date=UtcDateTime, headers=sa.JSON, sensitive=sa.Boolean)
_LINKS = Statement(_links)
_BLOB = sa.text("SELECT data FROM email_blobs WHERE sha256 = :sha256")


def load(connection: sa.Connection, ids: Sequence[int], token: str, safe: Safe | None = None) -> list[Mail]:
    """The mails among `ids` that are still claimed under `token`, in their order; `safe` opens what is sealed."""
    rows = {row.id: row for row in _ROWS(connection, ids=json.dumps(ids), token=token)}
    links = _load_links(connection, {row.content_id for row in rows.values() if row.has_files})
    return [_mail(rows[id_], token, links, safe) for id_ in ids if id_ in rows]


class Composer:
    """Mails to bytes, one at a time; the rows of a mail to several recipients follow each other and share theirs.

    A file that several of the chunk's mails carry is fetched and encoded once, and kept until the last of them. What
    only one carries is not kept at all, and of large ones no more than `_KEPT_BYTES`: a chunk of 100 different files
    of 10 MB must fit in memory, too, and a process may work on as many chunks as it has threads.
    """

    def __init__(self, engine: sa.Engine, mails: Iterable[Mail], signer: Signer | None = None) -> None:
        self._engine = engine
        self._signer = signer
        self._content_id: int | None = None
        self._data = b""
        self._ahead: dict[int, bytes] = {}
        carried = {mail.content_id: mail.files for mail in mails}
        self._to_come = Counter(link for links in carried.values() for link in links)
        self._kept: dict[FileLink, list[Part]] = {}
        self._room = _KEPT_BYTES

    def has(self, mail: Mail) -> bool:
        """Whether it is composed."""
        return mail.content_id == self._content_id or mail.content_id in self._ahead

    def compose(self, mail: Mail) -> bytes:
        """The message as it goes to the relay."""
        return self._guarded(mail) if mail.sensitive else self._compose(mail)

    def compose_ahead(self, mails: Iterable[Mail]) -> None:
        """Those that come next, as long as they are small: in a row, when no mail is in doubt should this kill us.

        What cannot be composed, or is under suspicion already, is left for its own turn.
        """
        room = _AHEAD_BYTES
        for mail in mails:
            room -= len(mail.message.text or "") + len(mail.message.html or "")
            if room < 0:
                break
            if not (mail.files or mail.loaded.deaths or self.has(mail)):
                with suppress(Exception):
                    self._ahead[mail.content_id] = self._composed(mail)

    def _guarded(self, mail: Mail) -> bytes:
        """What composing raises may hold what is composed; of a sensitive mail, the error's name must do."""
        try:
            return self._compose(mail)
        except sa.exc.SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again below, where it drags nothing behind it
            name = type(error).__name__
        raise ValueError(f"{name}, whose words are hidden, for the mail is sensitive")

    def _compose(self, mail: Mail) -> bytes:
        if mail.content_id != self._content_id:
            self._content_id, self._data = None, b""  # two large ones need not be there at once
            self._data = self._ahead.pop(mail.content_id, b"") or self._composed(mail)
            self._content_id = mail.content_id
        return self._data

    def _composed(self, mail: Mail) -> bytes:
        message = replace(mail.message, parts=self._parts(mail)) if mail.files else mail.message
        data = message.as_bytes()
        return data if self._signer is None else self._signer.sign(data, mail.sender.rpartition("@")[2])

    def _parts(self, mail: Mail) -> list[Part]:
        parts = {link: self._kept[link] for link in mail.files if link in self._kept}
        missing = set(mail.files) - parts.keys()
        if missing:
            with reading(self._engine) as connection:
                parts |= {link: encoded(_file(connection, link)) for link in missing}
        self._to_come.subtract(mail.files)
        self._keep(parts)
        return [part for link in mail.files for part in parts[link]]

    def _keep(self, parts: Mapping[FileLink, list[Part]]) -> None:
        """What later mails need, as long as there is room. The first to come stay: each fetched anew, all of them would
        be, where files take turns that do not fit together."""
        for link, encoded_file in parts.items():
            size = sum(len(part.data) for part in encoded_file)
            if self._to_come[link] <= 0:
                if self._kept.pop(link, None):
                    self._room += size
            elif link not in self._kept and size <= self._room:
                self._kept[link] = encoded_file
                self._room -= size


def _file(connection: sa.Connection, link: FileLink) -> File:
    """Its bytes, fetched."""
    data = connection.execute(_BLOB, {"sha256": link.sha256}).scalar_one()
    data = data if link.key is None else unlock(data, link.key)
    return File(link.filename, link.content_type, data, link.inline_id)


def _load_links(connection: sa.Connection, contents: set[int]) -> Mapping[int, Sequence[FileLink]]:
    links: dict[int, list[FileLink]] = defaultdict(list)
    if contents:
        for row in _LINKS(connection, ids=json.dumps(sorted(contents))):
            links[row.content_id].append(FileLink(row.sha256, row.filename, row.content_type, row.inline_id))
    return links


def _mail(row: Sequence[Any], token: str, links: Mapping[int, Sequence[FileLink]], safe: Safe | None) -> Mail:
    # All at once, in the order of `_rows`: asked for by their names, they take a third of a chunk's loading.
    (
        id_, claims, recipient, category, request_id, priority, attempts, max_attempts, on_uncertain, relay, lease_left,
        age, expires_in, resends, deaths, superseded_by, content_id, message_id, date, sender, to_header, cc_header,
        reply_to, subject, text, html, headers, sensitive, sealed, _,
    ) = row  # fmt: skip
    mail = Mail(
        id=id_,
        token=token,
        number=claims,
        recipient=recipient,
        category=category,
        request_id=request_id,
        priority=priority,
        content_id=content_id,
        relay=relay,
        lease_left=lease_left,
        loaded=Standing(attempts, max_attempts, OnUncertain(on_uncertain), resends, deaths, age, expires_in),
        message=Message(message_id, date, sender, to_header, cc_header, reply_to, subject, text, html, headers),
        files=links.get(content_id, ()),
        sensitive=sensitive,
        superseded_by=superseded_by,
    )
    if sealed is not None:
        _open(mail, sealed, safe)
    return mail


def _open(mail: Mail, sealed: bytes, safe: Safe | None) -> None:
    """Put in what a sensitive mail says; if that makes no sense, nothing, and it dies when it is composed."""
    try:
        if safe is None:
            raise KeyMissing  # noqa: TRY301 - the same as with other keys
        said = safe.open(sealed)
    except KeyMissing as error:
        mail.unreadable = str(error)
    except ValueError as error:
        sentence = "mail %(mail_id)d: %(why)s"
        tell(
            log, logging.ERROR, "mail.unreadable", sentence, mail_id=mail.id, why=str(error), request_id=mail.request_id
        )
    else:
        mail.message = replace(mail.message, **{name: said[name] for name in ("subject", "text", "html", "headers")})
        mail.files = [
            replace(link, **file, key=said["files_key"]) for link, file in zip(mail.files, said["files"], strict=False)
        ]


def message_of(content: sa.Row[Any] | EmailContent, files: Sequence[File] = ()) -> Message:
    """What a content says, ready to be composed."""
    return Message(
        message_id=content.message_id,
        date=content.date,
        sender=content.sender,
        to=content.to_header,
        cc=content.cc_header,
        reply_to=content.reply_to,
        subject=content.subject,
        text=content.text,
        html=content.html,
        headers=content.headers,
        files=files,
    )


def standing(row: sa.Row[Any]) -> Standing:
    """What `retry` must know, from a row with `claims.standing_columns`."""
    return Standing(
        attempts=row.attempts,
        max_attempts=row.max_attempts,
        on_uncertain=OnUncertain(row.on_uncertain),
        resends=row.resends,
        deaths=row.deaths,
        age=row.age,
        expires_in=row.expires_in,
    )
