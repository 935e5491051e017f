"""Postmark's webhooks: one event each. Nothing is signed: a password in the webhook's address says who posts."""

import hmac
from base64 import b64decode

from pydantic import AliasChoices, AwareDatetime, BaseModel, Field

from app.hooks.notices import Posted, Refused, Unconfigured
from outbox.feedback import Event
from outbox.states import Feedback

_KINDS = {
    "Delivery": Feedback.DELIVERED,
    "SpamComplaint": Feedback.COMPLAINED,
    # Types of a `Bounce`.
    "HardBounce": Feedback.BOUNCED,
    "BadEmailAddress": Feedback.BOUNCED,
    "Transient": Feedback.DELAYED,
    "DnsError": Feedback.DELAYED,
    "SoftBounce": Feedback.SOFT_BOUNCED,
    "Blocked": Feedback.SOFT_BOUNCED,
    "SpamNotification": Feedback.SOFT_BOUNCED,  # a filter's word, not the recipient's
    "VirusNotification": Feedback.SOFT_BOUNCED,
    "DMARCPolicy": Feedback.SOFT_BOUNCED,
    "Unknown": Feedback.SOFT_BOUNCED,
}
"""Other types are answers of holiday notices and such."""


class _Notice(BaseModel):
    record_type: str = Field(alias="RecordType")
    type: str = Field("", alias="Type")
    id: int | None = Field(None, alias="ID")
    message_id: str = Field("", alias="MessageID")
    recipient: str = Field("", validation_alias=AliasChoices("Email", "Recipient"))
    details: str = Field("", alias="Details")
    description: str = Field("", alias="Description")
    at: AwareDatetime | None = Field(None, validation_alias=AliasChoices("BouncedAt", "DeliveredAt"))

    @property
    def kind(self) -> Feedback | None:
        """None of what we do not keep."""
        return _KINDS.get(self.type if self.record_type == "Bounce" else self.record_type)


def read(posted: Posted) -> list[Event]:
    """See `notices.Reader`."""
    _check(posted)
    notice = _Notice.model_validate_json(posted.body)
    kind = notice.kind
    if kind is None or notice.at is None:
        return []
    return [
        Event(
            kind=kind,
            provider="postmark",
            id=str(notice.id) if notice.id is not None else f"{notice.record_type} {notice.message_id}",
            recipient=notice.recipient,
            occurred_at=notice.at,
            said=notice.details or notice.description,
            provider_id=notice.message_id,
        )
    ]


def _check(posted: Posted) -> None:
    expected = posted.settings.postmark_webhook_auth
    if expected is None:
        raise Unconfigured("POSTMARK_WEBHOOK_AUTH")
    scheme, _, given = posted.headers.get("Authorization", "").partition(" ")
    try:
        shown = b64decode(given.strip(), validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        shown = b""
    if not hmac.compare_digest(shown, expected.get_secret_value().encode()):
        raise Refused("without the password of POSTMARK_WEBHOOK_AUTH")
