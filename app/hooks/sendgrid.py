"""SendGrid's Event Webhook: a list of events, the whole of it signed (ECDSA over P-256, timestamp and body)."""

from base64 import b64decode
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter

from app.hooks.notices import Posted, Refused, Unconfigured, check_age
from outbox.feedback import Event
from outbox.states import Feedback

_SIGNATURE = "X-Twilio-Email-Event-Webhook-Signature"
_TIMESTAMP = "X-Twilio-Email-Event-Webhook-Timestamp"

_KINDS = {
    "delivered": Feedback.DELIVERED,
    "deferred": Feedback.DELAYED,
    "bounce": Feedback.BOUNCED,
    "blocked": Feedback.SOFT_BOUNCED,  # a bounce of the type `blocked`: not the address, but what was sent, or how
    "dropped": Feedback.SOFT_BOUNCED,
    "spamreport": Feedback.COMPLAINED,
}

_DROPPED = {
    "bounced address": Feedback.BOUNCED,
    "invalid": Feedback.BOUNCED,
    "spam reporting address": Feedback.COMPLAINED,
}
"""Mail that SendGrid did not even try, for what it knows of the address. Other reasons are of the mail."""


class _Event(BaseModel):
    event: str
    timestamp: AwareDatetime
    email: str = ""
    type: str = ""
    reason: str = ""
    response: str = ""
    sg_event_id: str = ""
    sg_message_id: str = ""
    smtp_id: str = Field("", alias="smtp-id")

    @property
    def kind(self) -> Feedback | None:
        """None of what we do not keep, such as `open` and `click`."""
        if self.event == "dropped":
            return _DROPPED.get(self.reason.lower(), Feedback.SOFT_BOUNCED)
        return _KINDS.get("blocked" if (self.event, self.type) == ("bounce", "blocked") else self.event)


_EVENTS = TypeAdapter(list[_Event])


def read(posted: Posted) -> list[Event]:
    """See `notices.Reader`."""
    _check(posted)
    return [
        Event(
            kind=kind,
            provider="sendgrid",
            id=one.sg_event_id,
            recipient=one.email,
            occurred_at=one.timestamp,
            said=one.reason or one.response,
            message_ids=(one.smtp_id,),
            # Ours begins with the id that its relay has said behind "queued as".
            provider_id=one.sg_message_id.partition(".")[0],
        )
        for one in _EVENTS.validate_json(posted.body)
        if (kind := one.kind) is not None and one.sg_event_id
    ]


def _check(posted: Posted) -> None:
    key = posted.settings.sendgrid_webhook_key
    if not key:
        raise Unconfigured("SENDGRID_WEBHOOK_KEY")
    public = load_der_public_key(b64decode(key))
    assert isinstance(public, EllipticCurvePublicKey)  # the settings have looked
    timestamp = posted.headers.get(_TIMESTAMP, "")
    try:
        signature = b64decode(posted.headers.get(_SIGNATURE, ""), validate=True)
        public.verify(signature, timestamp.encode() + posted.body, ECDSA(SHA256()))
        signed_at = datetime.fromtimestamp(int(timestamp), UTC)
    except (InvalidSignature, ValueError, OverflowError, OSError) as error:
        raise Refused("not signed with SENDGRID_WEBHOOK_KEY") from error
    check_age(signed_at)
