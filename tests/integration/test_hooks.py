"""What providers post: signed as they sign it, and as they never would."""

import hashlib
import hmac
import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from werkzeug.test import TestResponse

from app.hooks import LARGEST_BODY, READERS, ses
from app.hooks.notices import Refused, Unavailable
from app.nudge import connect
from app.settings import AppSettings
from outbox.errors import SettingsError
from tests.application import World
from tests.told import kept, sent, suppressed

ANN = "ann@example.com"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:bounces"
CERTIFICATE = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"
CONFIRM = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=x&Token=y"
SES_ID = "0100018f3c2a1b4d-5e6f7a8b-9c0d-4e1f-a2b3-c4d5e6f7a8b9-000000"
POSTMARK_ID = "883953f4-6105-42a2-a16a-77a8eac79483"
NOW = datetime.now(UTC)

SENDGRID_KEY = ec.generate_private_key(ec.SECP256R1())
AMAZON_KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEYS = (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048))
MAILGUN_KEY = "mailgun-key"

Post = tuple[bytes, dict[str, str]]
"""A body and its headers."""


def certificate(*, ended: bool = False) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(AMAZON_KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=9))
        .not_valid_after(NOW + timedelta(days=-1 if ended else 9))
        .sign(AMAZON_KEY, SHA256())
    )
    return made.public_bytes(Encoding.PEM)


def sns(message: dict[str, Any] | str, key: rsa.RSAPrivateKey = AMAZON_KEY, **fields: str) -> Post:
    """As Amazon SNS posts it. Each field is signed as it is."""
    text = message if isinstance(message, str) else json.dumps(message)
    envelope = {
        "Type": "Notification",
        "MessageId": "sns-1",
        "TopicArn": TOPIC,
        "Message": text,
        "Timestamp": f"{NOW:%Y-%m-%dT%H:%M:%S.000Z}",
        "SignatureVersion": "2",
        "SigningCertURL": CERTIFICATE,
    } | fields
    names = ["Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    signed = "".join(f"{name}\n{envelope[name]}\n" for name in names if name in envelope)
    digest = SHA256() if envelope["SignatureVersion"] == "2" else SHA1()
    signature = key.sign(signed.encode(), padding.PKCS1v15(), digest)
    return json.dumps(envelope | {"Signature": b64encode(signature).decode()}).encode(), {"Content-Type": "text/plain"}


def bounce(message_id: str, recipient: str = ANN, **bounce: Any) -> dict[str, Any]:
    """SES's notice."""
    return {
        "notificationType": "Bounce",
        "bounce": {
            "bounceType": "Permanent",
            "bounceSubType": "General",
            "bouncedRecipients": [
                {"emailAddress": recipient, "status": "5.1.1", "diagnosticCode": "smtp; 550 5.1.1 no such user"}
            ],
            "timestamp": NOW.isoformat(),
            "feedbackId": "feedback-1",
        }
        | bounce,
        "mail": {
            "messageId": SES_ID,
            "destination": [recipient],
            "headers": [{"name": "From", "value": "shop@example.com"}, {"name": "Message-ID", "value": message_id}],
        },
    }


def sendgrid(*events: dict[str, Any], key: ec.EllipticCurvePrivateKey = SENDGRID_KEY, at: float | None = None) -> Post:
    body, timestamp = json.dumps(events).encode(), str(int(time.time() if at is None else at))
    signature = b64encode(key.sign(timestamp.encode() + body, ec.ECDSA(SHA256()))).decode()
    headers = {
        "X-Twilio-Email-Event-Webhook-Signature": signature,
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
    }
    return body, headers


def sendgrid_event(message_id: str, recipient: str = ANN, **fields: Any) -> dict[str, Any]:
    return {
        "email": recipient,
        "timestamp": int(time.time()),
        "event": "bounce",
        "type": "bounce",
        "reason": "550 5.1.1 no such user",
        "smtp-id": message_id,
        "sg_event_id": "event-1",
        "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
    } | fields


def postmark(recipient: str = ANN, password: str = "hook:secret", **fields: Any) -> Post:
    body = {
        "RecordType": "Bounce",
        "ID": 42,
        "Type": "HardBounce",
        "TypeCode": 1,
        "MessageID": POSTMARK_ID,
        "Details": "550 5.1.1 no such user",
        "Email": recipient,
        "BouncedAt": "2026-11-29T13:28:10.2735393-04:00",
    } | fields
    return json.dumps(body).encode(), {"Authorization": f"Basic {b64encode(password.encode()).decode()}"}


def mailgun(
    message_id: str,
    recipient: str = ANN,
    *,
    key: str = MAILGUN_KEY,
    token: str = "t1",
    at: float | None = None,
    **data: Any,
) -> Post:
    timestamp = str(int(time.time() if at is None else at))
    signature = hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()
    body = {
        "signature": {"timestamp": timestamp, "token": token, "signature": signature},
        "event-data": {
            "event": "failed",
            "severity": "permanent",
            "reason": "bounce",
            "id": "G9Bn5sl1TC6nu79C8C0bwg",
            "timestamp": time.time(),
            "recipient": recipient,
            "delivery-status": {"code": 550, "message": "550 5.1.1 no such user"},
            "message": {"headers": {"message-id": message_id.strip("<>"), "to": recipient}, "size": 111},
        }
        | data,
    }
    return json.dumps(body).encode(), {"Content-Type": "application/json"}


@pytest.fixture
def hooked(world: World) -> World:
    return _hooked(world)


@pytest.fixture
def lite_hooked(sqlite_world: World) -> World:
    return _hooked(sqlite_world)


def _hooked(world: World) -> World:
    public = SENDGRID_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    world.app.extensions["settings"] = AppSettings.load(
        ses_topic_arns=TOPIC,
        sendgrid_webhook_key=b64encode(public).decode(),
        postmark_webhook_auth="hook:secret",
        mailgun_signing_key=MAILGUN_KEY,
    )
    return world


FETCH = ses.fetch
"""As it is, before `fetched` takes its place."""


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was asked of Amazon, which has a certificate."""
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return certificate()

    monkeypatch.setattr(ses, "fetch", fetch)
    ses._certificate.cache_clear()
    yield asked
    ses._certificate.cache_clear()


def post(world: World, provider: str, posted: Post) -> TestResponse:
    body, headers = posted
    return world.app.test_client().post(f"/hooks/{provider}", data=body, headers=headers)


def counts(recorded: int = 0, known: int = 0, unknown: int = 0) -> dict[str, int]:
    return {"recorded": recorded, "known": known, "unknown": unknown}


BY_MESSAGE_ID: dict[str, Callable[..., Post]] = {
    "ses": lambda message_id, **to: sns(bounce(message_id, **to)),
    "sendgrid": lambda message_id, **to: sendgrid(sendgrid_event(message_id, **to)),
    "postmark": lambda _, **to: postmark(**to),
    "mailgun": mailgun,
}


def test_each_providers_bounce_comes_home_once(hooked: World) -> None:
    for number, (provider, make) in enumerate(BY_MESSAGE_ID.items()):
        recipient = f"{provider}@example.com"
        id_, message_id = sent(hooked.engine, f"OK {POSTMARK_ID}", recipient=recipient)
        posted = make(message_id, recipient=recipient)
        answers = [post(hooked, provider, posted) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200], (number, answers[0].text)
        assert [answer.json for answer in answers] == [counts(recorded=1), counts(known=1)]
        assert kept(hooked.engine, id_) == [("bounced", "550 5.1.1 no such user")]
        assert suppressed(hooked.engine)[recipient] == ("bounced: 550 5.1.1 no such user", provider)


def test_what_is_of_no_mail_of_ours_is_done_with(lite_hooked: World) -> None:
    """200: nobody shall come again with it."""
    _, message_id = sent(lite_hooked.engine, f"OK {POSTMARK_ID}", recipient="bob@example.com")
    for provider, make in BY_MESSAGE_ID.items():
        answer = post(lite_hooked, provider, make(message_id))
        assert (answer.status_code, answer.json) == (200, counts(unknown=1)), provider
    assert suppressed(lite_hooked.engine) == {}


def test_the_relays_word_for_a_mail_will_do(lite_hooked: World) -> None:
    id_, _ = sent(lite_hooked.engine, f"Ok {SES_ID}")
    assert post(lite_hooked, "ses", sns(bounce("<replaced@email.amazonses.com>"))).json == counts(recorded=1)
    other, _ = sent(lite_hooked.engine, "Ok: queued as 14c5d75ce93", recipient="bob@example.com")
    event = sendgrid_event("<other@example.com>", "bob@example.com")
    assert post(lite_hooked, "sendgrid", sendgrid(event)).json == counts(recorded=1)
    assert kept(lite_hooked.engine, id_) == kept(lite_hooked.engine, other) == [("bounced", "550 5.1.1 no such user")]


KINDS: list[tuple[str, Callable[[str], Post], list[str]]] = [
    ("ses", lambda id_: sns(bounce(id_, bounceType="Transient")), ["soft_bounced"]),
    ("ses", lambda id_: sns(bounce(id_) | {"notificationType": None, "eventType": "Bounce"}), ["bounced"]),
    (
        "ses",
        lambda id_: sns(
            bounce(id_)
            | {
                "notificationType": "Complaint",
                "complaint": {"complainedRecipients": [{"emailAddress": ANN}], "timestamp": NOW.isoformat()},
            }
        ),
        ["complained"],
    ),
    (
        "ses",
        lambda id_: sns(
            bounce(id_)
            | {"eventType": "Delivery", "delivery": {"recipients": [f"Ann <{ANN}>"], "timestamp": NOW.isoformat()}}
        ),
        ["delivered"],
    ),
    (
        "ses",
        lambda id_: sns(
            bounce(id_)
            | {
                "eventType": "DeliveryDelay",
                "deliveryDelay": {"delayedRecipients": [{"emailAddress": ANN}], "timestamp": NOW.isoformat()},
            }
        ),
        ["delayed"],
    ),
    ("ses", lambda id_: sns(bounce(id_) | {"notificationType": "Open", "open": {}}), []),
    ("ses", lambda _: sns("Successfully validated SNS topic for Amazon SES event publishing."), []),
    (
        "sendgrid",
        lambda id_: sendgrid(
            sendgrid_event(id_, event="processed", sg_event_id="0"),
            sendgrid_event(id_, event="deferred", sg_event_id="1", timestamp=1_700_000_001),
            sendgrid_event(id_, type="blocked", sg_event_id="2", timestamp=1_700_000_002),
            sendgrid_event(id_, event="delivered", sg_event_id="3", timestamp=1_700_000_003),
            sendgrid_event(id_, event="dropped", reason="Bounced Address", sg_event_id="4", timestamp=1_700_000_004),
            sendgrid_event(
                id_, event="dropped", reason="Invalid SMTPAPI header", sg_event_id="5", timestamp=1_700_000_005
            ),
            sendgrid_event(id_, event="spamreport", sg_event_id="6", timestamp=1_700_000_006),
            sendgrid_event(id_, event="open", sg_event_id="7"),
        ),
        ["delayed", "soft_bounced", "delivered", "bounced", "soft_bounced", "complained"],
    ),
    ("postmark", lambda _: postmark(Type="SoftBounce"), ["soft_bounced"]),
    ("postmark", lambda _: postmark(Type="Transient"), ["delayed"]),
    ("postmark", lambda _: postmark(Type="AutoResponder"), []),
    ("postmark", lambda _: postmark(RecordType="SpamComplaint", Type="SpamComplaint"), ["complained"]),
    (
        "postmark",
        lambda _: json_with_auth(
            {
                "RecordType": "Delivery",
                "MessageID": POSTMARK_ID,
                "Recipient": ANN,
                "DeliveredAt": "2026-11-29T13:28:10Z",
            }
        ),
        ["delivered"],
    ),
    ("postmark", lambda _: postmark(RecordType="Open"), []),
    ("mailgun", lambda id_: mailgun(id_, severity="temporary"), ["delayed"]),
    ("mailgun", lambda id_: mailgun(id_, reason="old"), ["soft_bounced"]),
    ("mailgun", lambda id_: mailgun(id_, reason="suppress-complaint"), ["complained"]),
    ("mailgun", lambda id_: mailgun(id_, event="complained"), ["complained"]),
    ("mailgun", lambda id_: mailgun(id_, event="delivered"), ["delivered"]),
    ("mailgun", lambda id_: mailgun(id_, event="opened"), []),
]


def json_with_auth(body: dict[str, Any]) -> Post:
    return json.dumps(body).encode(), postmark()[1]


def test_what_each_kind_of_notice_means(lite_hooked: World) -> None:
    tokens = connect(lite_hooked.settings.redis_url)
    for provider, make, expected in KINDS:
        id_, message_id = sent(lite_hooked.engine, f"OK {POSTMARK_ID}")
        tokens.delete("outbox:hook:mailgun:t1")  # each is a notice of its own
        answer = post(lite_hooked, provider, make(message_id))
        assert answer.status_code == 200, answer.text
        assert [kind for kind, _ in kept(lite_hooked.engine, id_)] == expected, (provider, answer.json)


def _changed(posted: Post, old: bytes, new: bytes) -> Post:
    body, headers = posted
    assert old in body
    return body.replace(old, new), headers


def test_forged_and_stale_notices_change_nothing(lite_hooked: World, caplog: pytest.LogCaptureFixture) -> None:
    id_, message_id = sent(lite_hooked.engine, f"OK {POSTMARK_ID}")
    old, ahead = time.time() - 26 * 3600, time.time() + 600
    stale = f"{datetime.fromtimestamp(old, UTC):%Y-%m-%dT%H:%M:%S.000Z}"
    good = bounce(message_id)
    forged: list[tuple[str, Post]] = [
        ("ses", sns(good, OTHER_KEYS[1])),
        ("ses", sns(good, TopicArn=TOPIC.replace("bounces", "others"))),
        ("ses", sns(good, Timestamp=stale)),
        ("ses", sns(good, Timestamp="yesterday")),
        ("ses", sns(good, SignatureVersion="3")),
        ("ses", _changed(sns(good, SignatureVersion="1"), b"no such user", b"no such word")),
        *(
            ("ses", sns(good, SigningCertURL=url))
            for url in (
                "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
                "https://sns.eu-west-1.amazonaws.com.example.com/SimpleNotificationService-0123456789abcdef.pem",
                "https://example.com/sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
                "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
                "https://bucket.s3.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
                "https://user@sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
                f"{CERTIFICATE}\n",
            )
        ),
        (
            "ses",
            sns(
                "x",
                Type="SubscriptionConfirmation",
                SubscribeURL="https://example.com/?Action=ConfirmSubscription&x",
                Token="t",
            ),
        ),
        ("sendgrid", sendgrid(sendgrid_event(message_id), key=OTHER_KEYS[0])),
        ("sendgrid", sendgrid(sendgrid_event(message_id), at=old)),
        ("sendgrid", sendgrid(sendgrid_event(message_id), at=ahead)),
        ("sendgrid", _changed(sendgrid(sendgrid_event(message_id)), b"bounce", b"bounds")),
        ("sendgrid", (sendgrid(sendgrid_event(message_id))[0], {})),
        ("postmark", postmark(password="hook:other")),
        ("postmark", (postmark()[0], {})),
        ("postmark", (postmark()[0], {"Authorization": "Basic !"})),
        ("postmark", (postmark()[0], {"Authorization": "Bearer aG9vazpzZWNyZXQ="})),
        ("mailgun", mailgun(message_id, key="other")),
        ("mailgun", mailgun(message_id, at=old)),
        ("mailgun", mailgun(message_id, at=ahead)),
    ]
    for provider, posted in forged:
        answer = post(lite_hooked, provider, posted)
        assert (answer.status_code, answer.mimetype) == (403, "application/json"), (provider, posted, answer.text)
    assert kept(lite_hooked.engine, id_) == []
    assert suppressed(lite_hooked.engine) == {}
    assert len([record for record in caplog.records if vars(record).get("event") == "feedback.refused"]) == len(forged)
    assert "@" not in "".join(record.message for record in caplog.records)


def test_a_mailgun_signature_serves_for_one_event(lite_hooked: World) -> None:
    """It does not cover what it stands before."""
    id_, message_id = sent(lite_hooked.engine)
    other, other_id = sent(lite_hooked.engine, recipient="bob@example.com")
    now = time.time()
    assert post(lite_hooked, "mailgun", mailgun(message_id, at=now)).status_code == 200
    assert post(lite_hooked, "mailgun", mailgun(other_id, "bob@example.com", at=now)).status_code == 403
    assert kept(lite_hooked.engine, other) == []
    lite_hooked.app.extensions["hook_tokens"] = connect("redis://127.0.0.1:1/0")
    assert post(lite_hooked, "mailgun", mailgun(message_id, token="t2")).status_code == 503
    assert len(kept(lite_hooked.engine, id_)) == 1


def test_what_is_no_notice_is_refused(lite_hooked: World) -> None:
    for provider, good in (("ses", {}), ("sendgrid", {}), ("postmark", postmark()[1]), ("mailgun", {})):
        for body in (b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 9000, b'{"a":' * 9000):
            headers = good if provider != "sendgrid" else _signed(body)
            answer = post(lite_hooked, provider, (body, headers))
            expected = 200 if (provider, body) == ("sendgrid", b"[]") else 400
            assert answer.status_code == expected, (provider, body[:20], answer.text)
        too_much = post(lite_hooked, provider, (b"x" * (LARGEST_BODY + 1), good))
        assert too_much.status_code == 413
    assert post(lite_hooked, "nobody", (b"", {})).status_code == 404
    assert lite_hooked.app.test_client().get("/hooks/ses").status_code == 405


def _signed(body: bytes) -> dict[str, str]:
    timestamp = str(int(time.time()))
    signature = b64encode(SENDGRID_KEY.sign(timestamp.encode() + body, ec.ECDSA(SHA256()))).decode()
    return {
        "X-Twilio-Email-Event-Webhook-Signature": signature,
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
    }


def test_a_provider_without_its_setting_shall_come_again(sqlite_world: World) -> None:
    for provider in READERS:
        answer = post(sqlite_world, provider, (b"{}", {}))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3600")
        assert answer.text.endswith('is not set here."}')


def test_a_subscription_of_our_topic_is_confirmed_at_amazon(lite_hooked: World, fetched: list[str]) -> None:
    wanted: dict[str, Any] = {"Type": "SubscriptionConfirmation", "SubscribeURL": CONFIRM, "Token": "t"}
    assert post(lite_hooked, "ses", sns("You have chosen to subscribe", **wanted)).status_code == 200
    assert fetched == [CERTIFICATE, CONFIRM]
    assert post(lite_hooked, "ses", sns("x", **wanted, TopicArn=f"{TOPIC}-other")).status_code == 403
    assert fetched == [CERTIFICATE, CONFIRM]  # nothing is fetched for a stranger, and a certificate once


def test_version_1_of_amazons_signature(lite_hooked: World) -> None:
    _, message_id = sent(lite_hooked.engine)
    posted = sns(bounce(message_id), SignatureVersion="1", Subject="Amazon SES Email Event Notification")
    assert post(lite_hooked, "ses", posted).json == counts(recorded=1)


def test_a_certificate_must_be_valid_now_and_be_one(lite_hooked: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ses, "fetch", lambda _: certificate(ended=True))
    assert post(lite_hooked, "ses", sns(bounce("<x>"))).status_code == 403
    ses._certificate.cache_clear()
    monkeypatch.setattr(ses, "fetch", lambda _: b"<html>")
    assert post(lite_hooked, "ses", sns(bounce("<x>"))).status_code == 503


@pytest.mark.parametrize(("status", "raises"), [(404, Refused), (403, Refused), (503, Unavailable)])
def test_whose_fault_it_is_that_a_certificate_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, status: int, raises: type[Exception]
) -> None:
    """Anybody who knows a topic's name can name certificates that are not there: that counts as a refusal."""
    answer = SimpleNamespace(status=status, read=lambda _: b"", release_conn=lambda: None)
    monkeypatch.setattr(ses, "_pool", SimpleNamespace(request=lambda *_, **__: answer))
    with pytest.raises(raises):
        FETCH("https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem")


def test_who_was_refused_often_is_not_read_any_more(lite_hooked: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, message_id = sent(lite_hooked.engine, f"OK {POSTMARK_ID}")
    for _ in range(60):
        assert post(lite_hooked, "postmark", postmark(password="hook:other")).status_code == 403
    answer = post(lite_hooked, "postmark", postmark())
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert post(lite_hooked, "sendgrid", sendgrid(sendgrid_event(message_id))).status_code == 200


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"ses_topic_arns": "bounces"}, "'bounces' is no topic"),
        ({"sendgrid_webhook_key": "MFkw"}, "give the verification key as SendGrid shows it"),
        ({"postmark_webhook_auth": "secret"}, "give user:password"),
        ({"api_rate": "often"}, "API_RATE"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_settings_are_checked_at_start(setting: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        AppSettings.load(**setting)
