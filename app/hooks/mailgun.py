"""Mailgun's webhooks: one event each. The signature is of a timestamp and a token alone, not of the event.

Who sees one such signature could put it before any event. So a token is remembered with the event that it came with,
for as long as its timestamp is believed.
"""

import hashlib
import hmac
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, Field

from app.hooks.notices import Posted, Refused, Unconfigured, check_age
from outbox.feedback import Event
from outbox.states import Feedback

_ADDRESS_AT_FAULT = {"bounce", "suppress-bounce"}
"""Reasons of a permanent failure. Others are of the mail (`espblock`), or of time (`old`)."""


class _Signature(BaseModel):
    timestamp: str
    token: str
    signature: str


class _Headers(BaseModel):
    message_id: str = Field("", alias="message-id")


class _Message(BaseModel):
    headers: _Headers = _Headers.model_validate({})


class _Status(BaseModel):
    message: str = ""
    description: str = ""


class _Data(BaseModel):
    event: str
    id: str = ""
    timestamp: AwareDatetime
    recipient: str = ""
    severity: str = ""
    reason: str = ""
    message: _Message = _Message()
    status: _Status = Field(_Status(), alias="delivery-status")

    @property
    def kind(self) -> Feedback | None:
        """None of what we do not keep."""
        match self.event, self.severity:
            case "delivered", _:
                return Feedback.DELIVERED
            case "complained", _:
                return Feedback.COMPLAINED
            case "failed", "temporary":
                return Feedback.DELAYED
            case "failed", _ if self.reason == "suppress-complaint":
                return Feedback.COMPLAINED
            case "failed", _:
                return Feedback.BOUNCED if self.reason in _ADDRESS_AT_FAULT else Feedback.SOFT_BOUNCED
        return None


class _Notice(BaseModel):
    signature: _Signature
    data: _Data = Field(alias="event-data")


def read(posted: Posted) -> list[Event]:
    """See `notices.Reader`."""
    key = posted.settings.mailgun_signing_key
    if key is None:
        raise Unconfigured("MAILGUN_SIGNING_KEY")
    notice = _Notice.model_validate_json(posted.body)
    _check(notice.signature, key.get_secret_value(), posted)
    data, kind = notice.data, notice.data.kind
    if kind is None:
        return []
    return [
        Event(
            kind=kind,
            provider="mailgun",
            id=f"{data.timestamp:%Y-%m-%d} {data.id}",  # unique within a day, says Mailgun
            recipient=data.recipient,
            occurred_at=data.timestamp,
            said=data.status.message or data.status.description or data.reason,
            message_ids=(data.message.headers.message_id,),
        )
    ]


def _check(signature: _Signature, key: str, posted: Posted) -> None:
    signed = f"{signature.timestamp}{signature.token}".encode(errors="replace")
    expected = hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.signature.encode(errors="replace")):
        raise Refused("not signed with MAILGUN_SIGNING_KEY")
    try:
        check_age(datetime.fromtimestamp(int(signature.timestamp), UTC))
    except (ValueError, OverflowError, OSError) as error:
        raise Refused("signed at no time") from error
    if not posted.remember(f"mailgun:{signature.token}", hashlib.sha256(posted.body).hexdigest()):
        raise Refused("a signature that came with another event")
