"""Amazon SES, whose notices come through an SNS topic that signs them (RSA; version 1 with SHA-1, 2 with SHA-256).

Amazon signs for everybody's topics, so the signature alone says nothing: the topic must be one of SES_TOPIC_ARNS.
"""

import re
from base64 import b64decode
from datetime import UTC, datetime
from email.utils import parseaddr
from functools import lru_cache
from typing import Literal

import urllib3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.x509 import Certificate, load_pem_x509_certificate
from pydantic import AwareDatetime, BaseModel, Field

from app.hooks.notices import Posted, Refused, Unavailable, Unconfigured, check_age
from outbox.feedback import Event
from outbox.states import Feedback

_HOST = r"https://sns\.{region}\.amazonaws\.com(?:\.cn)?"
_CERTIFICATE = _HOST + r"/SimpleNotificationService-[0-9a-f]{{8,64}}\.pem"
_CONFIRMATION = _HOST + r"/\?Action=ConfirmSubscription&[A-Za-z0-9%&=:._~-]+"
"""Where we may be sent, of the region that the topic is in: a signature's own word for where its key lies is a
stranger's."""

_SECONDS = 5.0
"""For each step of a fetch: the provider waits for our answer."""
_LARGEST = 65_536
"""Bytes that are read of what is fetched. A certificate has 2,000."""

_HASHES = {"1": SHA1, "2": SHA256}
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
"""What is signed: names and values, a line each, without those that are not there."""


class _Envelope(BaseModel):
    """Of SNS."""

    Type: Literal["Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"]
    MessageId: str
    TopicArn: str
    Message: str
    Timestamp: str
    SignatureVersion: str
    Signature: str
    SigningCertURL: str
    Subject: str | None = None
    SubscribeURL: str | None = None
    Token: str | None = None


class _Recipient(BaseModel):
    address: str = Field("", alias="emailAddress")
    reply: str = Field("", alias="diagnosticCode")


class _Happening(BaseModel):
    """A `bounce`, `complaint`, `delivery` or `deliveryDelay`."""

    timestamp: AwareDatetime
    id: str = Field("", alias="feedbackId")
    bounce_type: str = Field("", alias="bounceType")
    bounce_subtype: str = Field("", alias="bounceSubType")
    bounced: list[_Recipient] = Field([], alias="bouncedRecipients")
    complaint_type: str | None = Field(None, alias="complaintFeedbackType")
    complained: list[_Recipient] = Field([], alias="complainedRecipients")
    delay_type: str = Field("", alias="delayType")
    delayed: list[_Recipient] = Field([], alias="delayedRecipients")
    delivered: list[str] = Field([], alias="recipients")
    response: str = Field("", alias="smtpResponse")


class _Header(BaseModel):
    name: str
    value: str = ""


class _Mail(BaseModel):
    id: str = Field("", alias="messageId")
    headers: list[_Header] = []
    """Those that it had when SES got it, if the notices are set to have them."""


class _Notice(BaseModel):
    """Of SES. Identities say `notificationType`, configuration sets `eventType`."""

    notification_type: str | None = Field(None, alias="notificationType")
    event_type: str | None = Field(None, alias="eventType")
    mail: _Mail = _Mail.model_validate({})
    bounce: _Happening | None = None
    complaint: _Happening | None = None
    delivery: _Happening | None = None
    delay: _Happening | None = Field(None, alias="deliveryDelay")

    def told(self) -> tuple[_Happening, Feedback, list[_Recipient], str] | None:
        """What happened to whom; None of what we do not keep."""
        match self.event_type or self.notification_type, self.bounce, self.complaint, self.delivery, self.delay:
            case "Bounce", _Happening() as bounce, _, _, _:
                kind = Feedback.BOUNCED if bounce.bounce_type == "Permanent" else Feedback.SOFT_BOUNCED
                return bounce, kind, bounce.bounced, f"{bounce.bounce_type}: {bounce.bounce_subtype}"
            case "Complaint", _, _Happening() as complaint, _, _:
                return complaint, Feedback.COMPLAINED, complaint.complained, complaint.complaint_type or ""
            case "Delivery", _, _, _Happening() as delivery, _:
                recipients = [_Recipient.model_validate({"emailAddress": address}) for address in delivery.delivered]
                return delivery, Feedback.DELIVERED, recipients, delivery.response
            case "DeliveryDelay", _, _, _, _Happening() as delay:
                return delay, Feedback.DELAYED, delay.delayed, delay.delay_type
        return None


def read(posted: Posted) -> list[Event]:
    """See `notices.Reader`. A subscription to one of our topics is confirmed."""
    if not posted.settings.ses_topic_arns:
        raise Unconfigured("SES_TOPIC_ARNS")
    envelope = _Envelope.model_validate_json(posted.body)
    _check(envelope, posted.settings.ses_topic_arns)
    if envelope.Type == "SubscriptionConfirmation":
        _confirm(envelope)
    # After the confirmation SES says, once and in plain English, that the topic is valid.
    is_notice = envelope.Type == "Notification" and envelope.Message.lstrip().startswith("{")
    return _events(_Notice.model_validate_json(envelope.Message), envelope) if is_notice else []


def _events(notice: _Notice, envelope: _Envelope) -> list[Event]:
    told = notice.told()
    if told is None:
        return []
    happening, kind, recipients, said = told
    return [
        Event(
            kind=kind,
            provider="ses",
            id=happening.id or envelope.MessageId,
            recipient=parseaddr(recipient.address)[1],
            occurred_at=happening.timestamp,
            said=recipient.reply.removeprefix("smtp;") or said,
            message_ids=tuple(header.value for header in notice.mail.headers if header.name.lower() == "message-id"),
            provider_id=notice.mail.id,
        )
        for recipient in recipients
    ]


def _check(envelope: _Envelope, topics: tuple[str, ...]) -> None:
    if envelope.TopicArn not in topics:
        raise Refused("of a topic that is not in SES_TOPIC_ARNS")
    signed = _SIGNED.get(envelope.Type, _SIGNED["SubscriptionConfirmation"])
    lines = ((name, getattr(envelope, name)) for name in signed)
    text = "".join(f"{name}\n{value}\n" for name, value in lines if value is not None)
    if envelope.SignatureVersion not in _HASHES:
        raise Refused("signed in a version that is not 1 or 2")
    if not re.fullmatch(_CERTIFICATE.format(region=_region(envelope)), envelope.SigningCertURL):
        raise Refused("signed with a certificate that does not lie with Amazon SNS")
    certificate = _certificate(envelope.SigningCertURL)
    key = certificate.public_key()
    try:
        if not isinstance(key, RSAPublicKey):
            raise Refused("signed with a key that is not RSA")
        signature = b64decode(envelope.Signature, validate=True)
        key.verify(signature, text.encode(errors="replace"), PKCS1v15(), _HASHES[envelope.SignatureVersion]())
        signed_at = datetime.fromisoformat(envelope.Timestamp)
    except (InvalidSignature, ValueError) as error:
        raise Refused("not signed by Amazon SNS") from error
    if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
        raise Refused("signed with a certificate that is not valid now")
    check_age(signed_at if signed_at.tzinfo else signed_at.replace(tzinfo=UTC))


def _region(envelope: _Envelope) -> str:
    return re.escape(envelope.TopicArn.split(":")[3])  # of the settings, which have looked at its form


@lru_cache(maxsize=16)
def _certificate(url: str) -> Certificate:
    """Amazon changes it once a year."""
    try:
        return load_pem_x509_certificate(fetch(url))
    except ValueError as error:
        raise Unavailable(f"{url} is no certificate") from error


def _confirm(envelope: _Envelope) -> None:
    url = envelope.SubscribeURL or ""
    if not re.fullmatch(_CONFIRMATION.format(region=_region(envelope)), url):
        raise Refused("a subscription that is not confirmed at Amazon SNS")
    fetch(url)


def fetch(url: str) -> bytes:
    """What lies at an address of Amazon's. Raises Unavailable; Refused, if Amazon says that nothing does."""
    try:
        response = _pool.request("GET", url, preload_content=False)
        try:
            found = response.read(_LARGEST)
        finally:
            response.release_conn()
    except urllib3.exceptions.HTTPError as error:
        raise Unavailable(f"{url.partition('?')[0]} does not answer ({error})") from error
    if 400 <= response.status < 500:  # noqa: PLR2004 - whoever named the address is wrong, and counted as such
        raise Refused(f"{url.partition('?')[0]} is not there ({response.status})")
    if response.status != 200:  # noqa: PLR2004 - it is there
        raise Unavailable(f"{url.partition('?')[0]} answers {response.status}")
    return found


_pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=_SECONDS, read=_SECONDS), retries=False)
"""Without redirects."""
