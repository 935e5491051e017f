"""What goes over the wire, as pydantic models: they check what comes in, and the OpenAPI document is made of them."""

from base64 import b64decode
from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
)

from app.database import LARGEST_ID
from outbox.arguments import LONGEST_LABEL, LONGEST_SUBJECT, LONGEST_WITHIN, MOST_ATTEMPTS
from outbox.attachments import Attachment
from outbox.searching import Filter
from outbox.states import DeadReason, Feedback, Kind, OnUncertain, Outcome, Priority, Stage, Status

LONGEST_KEY = 200
"""Characters of an `Idempotency-Key`: with what keeps the users' keys apart it fits the column."""

MOST_RECIPIENTS = 1000
"""In one header: a mail is one row for each, written in one transaction. More are several mails."""

_YEARS = range(1970, 9000)


def _written_out(value: object) -> object:
    """pydantic takes numbers for seconds since 1970, and days for their midnights; the document does not."""
    if not isinstance(value, str) or "T" not in value.upper():
        raise ValueError("give a time as in ISO 8601, with its zone: 2026-12-24T18:00:00+01:00")
    return value


def _moment(value: datetime) -> datetime:
    """One that stays a time in every zone, and in every database."""
    if value.year not in _YEARS:
        raise ValueError(f"give a year from {_YEARS[0]} to {_YEARS[-1]}")
    return value


def _decoded(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("give the file in base64, as a string")  # noqa: TRY004 - pydantic's protocol
    try:
        return b64decode(value.encode("ascii"), validate=True)
    except ValueError as error:
        raise ValueError("give the file in base64 (RFC 4648, 4), without line ends") from error


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_moment)]
Address = Annotated[str, Field(min_length=3, max_length=998, examples=["ada@example.com", "Ada <ada@example.com>"])]
Addresses = Address | Annotated[list[Address], Field(max_length=MOST_RECIPIENTS)]
Label = Annotated[str, Field(min_length=1, max_length=LONGEST_LABEL)]
Words = Annotated[str, Field(min_length=1, max_length=998, pattern=r"^[^\x00]*$")]
"""To search for. No database takes a NUL."""
File = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "format": "byte", "contentEncoding": "base64", "examples": ["SGVsbG8K"]}),
]
PriorityName = Annotated[str, Field(pattern=f"^({'|'.join(lane.label for lane in Priority)})$")]


class _Asked(BaseModel):
    """What comes in. A name that we do not know is a mistake, not a wish that can be passed over."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class _Answered(BaseModel):
    """What goes out."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class NewAttachment(_Asked):
    """A file that goes with a mail."""

    filename: Annotated[str, Field(min_length=1, max_length=255, examples=["receipt.pdf"])]
    content: File
    """The file, in base64."""
    content_type: str | None = None
    """Guessed from the file name if it is not given."""
    inline_id: str | None = None
    """Shown in the HTML at `<img src="cid:INLINE_ID">`, rather than offered for download."""

    def attachment(self) -> Attachment:
        """As the library has it."""
        return Attachment(self.filename, self.content, self.content_type, self.inline_id)


class NewEmail(_Asked):
    """A mail to queue. It says something by `subject` with `text`, `html` or both; or by a `template`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"to": "Ada <ada@example.com>", "subject": "Hello", "text": "Hello, Ada."}]}
    )

    to: Addresses
    cc: Addresses = []
    bcc: Addresses = []
    subject: Annotated[str, Field(max_length=LONGEST_SUBJECT)] | None = None
    text: str | None = None
    html: str | None = None
    template: Label | None = None
    """The name of a template of this installation."""
    context: dict[str, JsonValue] | None = None
    """The variables of the template."""
    locale: Label | None = None
    from_email: Address | None = None
    """`SMTP_FROM_EMAIL` unless it is given."""
    reply_to: Addresses | None = None
    headers: dict[str, str] | None = None
    attachments: list[NewAttachment] = []
    priority: PriorityName = "normal"
    scheduled_at: Moment | None = None
    """Held back until then."""
    expires_at: Moment | None = None
    """Not sent any more after that."""
    max_attempts: Annotated[int, Field(ge=1, le=MOST_ATTEMPTS)] | None = None
    on_uncertain: OnUncertain | None = None
    """When the relay may have had the mail: `retry` (risk a second copy) or `hold` (wait for a person)."""
    category: Label | None = None
    sensitive: bool = False
    """Encrypted, shown nowhere, and wiped when it is over."""
    supersedes: Label | None = None
    """Of the mails that have the same key only the newest is sent."""
    collapse: Label | None = None
    """Mails of the same key to the same recipient become one, as long as the first of them waits."""
    within: Annotated[float, Field(gt=0, le=LONGEST_WITHIN)] | None = None
    """Seconds for which `collapse` gathers."""

    def arguments(self) -> dict[str, Any]:
        """Those of `EmailService.queue_email`."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return given | {"attachments": [file.attachment() for file in self.attachments]}


class Keyed(BaseModel):
    """Headers of a request that queues."""

    idempotency_key: str | None = Field(
        None,
        alias="Idempotency-Key",
        min_length=1,
        max_length=LONGEST_KEY,
        pattern=r"^[!-~]+$",
        description=(
            "Of your choice. The same key with the same mail queues nothing and answers with the mail that is there; "
            "with another mail it is refused (409). It is remembered as long as the mail is."
        ),
    )


class Wanted(_Asked):
    """A search. Everything that is given must hold."""

    status: Status | None = None
    dead_reason: DeadReason | None = None
    recipient: Words | None = None
    """The whole address, in whatever letter case."""
    subject: Words | None = None
    """A part of it, in whatever letter case."""
    category: Words | None = None
    priority: PriorityName | None = None
    message_id: Words | None = None
    request_id: Words | None = None
    since: Moment | None = None
    """Queued then or later."""
    until: Moment | None = None
    """Queued before."""
    before: Annotated[int, Field(ge=1, le=LARGEST_ID)] | None = None
    """The `next` of the page before."""
    limit: Annotated[int, Field(ge=1, le=200)] = 50

    def filter(self) -> Filter:
        """As the library has it."""
        given = self.model_dump(exclude={"before", "limit", "priority"})
        return Filter(**given, priority=Priority[self.priority.upper()] if self.priority else None)


class Problem(_Answered):
    """Why not: what was wrong, with which value, and what to do."""

    error: str
    field: str | None = None
    """What the error is about, if it is about one: `attachments[0].content`."""


class Recipient(_Answered):
    """One of those whom a mail is owed to: it has a fate, and so an id, of its own."""

    id: int
    recipient: str
    kind: Kind
    status: Status
    url: str


class Queued(_Answered):
    """A mail that is in the queue."""

    message_id: str
    """The Message-ID that it goes out with."""
    recipients: list[Recipient]


class Email(_Answered):
    """How a mail to one recipient stands. What it says is not repeated here."""

    id: int
    message_id: str
    recipient: str
    kind: Kind
    subject: str
    category: str | None
    status: Status
    dead_reason: DeadReason | None
    priority: str
    attempts: int
    """Those that count towards `max_attempts`."""
    max_attempts: int
    request_id: str | None
    created_at: datetime
    scheduled_at: datetime | None
    next_attempt_at: datetime | None
    """While it is pending."""
    expires_at: datetime | None
    sent_at: datetime | None
    finalized_at: datetime | None


class Attempt(_Answered):
    """One conversation with a relay."""

    number: int
    started_at: datetime
    finished_at: datetime
    outcome: Outcome
    stage: Stage
    code: int | None
    reply: str
    relay: str


class Told(_Answered):
    """What a provider, or the recipient's server, told of it afterwards."""

    kind: Feedback
    provider: str
    occurred_at: datetime
    said: str


class EmailInFull(Email):
    """The same with its history."""

    why: str
    """One sentence: why it has not gone yet and when it will, or what became of it."""
    tried: list[Attempt]
    feedback: list[Told]


class Emails(_Answered):
    """A page, newest first."""

    emails: list[Email]
    next: int | None
    """Give it as `before` for what comes behind; null: there is nothing more."""
    searched_to: datetime | None
    """How far back was looked, where a page ends before it is full: a subject or a category has no index."""
