"""Bounces and complaints as servers send them, about one mail."""

from textwrap import dedent

_QUOTED = """\
    From: Shop <shop@example.com>
    To: {recipient}
    Subject: Receipt
    Message-ID: {message_id}
"""


def postfix(message_id: str, recipient: str, status: str = "5.1.1", action: str = "failed", **fields: str) -> bytes:
    """With the whole mail, as Postfix returns it. `original`: Original-Recipient."""
    original = fields.get("original", recipient)
    reply = fields.get("reply", f"550 {status} <{recipient}>: Recipient address rejected")
    return _crlf(f"""\
        Return-Path: <>
        Date: Sun, 29 Nov 2026 10:00:00 +0000 (UTC)
        From: MAILER-DAEMON@mx.example.com (Mail Delivery System)
        Subject: Undelivered Mail Returned to Sender
        To: shop@example.com
        Auto-Submitted: auto-replied
        MIME-Version: 1.0
        Content-Type: multipart/report; report-type=delivery-status;
        \tboundary="5A1B2C.1764410400/mx.example.com"
        Message-Id: <{fields.get("own_id", "20261129100000.5A1B2C")}@mx.example.com>

        This is a MIME-encapsulated message.

        --5A1B2C.1764410400/mx.example.com
        Content-Description: Notification
        Content-Type: text/plain; charset=us-ascii

        I'm sorry to have to inform you that your message could not
        be delivered to one or more recipients.

        --5A1B2C.1764410400/mx.example.com
        Content-Description: Delivery report
        Content-Type: message/delivery-status

        Reporting-MTA: dns; mx.example.com
        X-Postfix-Queue-ID: 5A1B2C
        Arrival-Date: Sun, 29 Nov 2026 09:59:58 +0000 (UTC)

        Final-Recipient: rfc822; {recipient}
        Original-Recipient: rfc822;{original}
        Action: {action}
        Status: {status}
        Remote-MTA: dns; mail.example.net
        Diagnostic-Code: smtp; {reply}

        --5A1B2C.1764410400/mx.example.com
        Content-Description: Undelivered Message
        Content-Type: message/rfc822

        {_quoted(message_id, recipient)}

        Thank you.

        --5A1B2C.1764410400/mx.example.com--
        """)


def exchange(message_id: str, recipient: str) -> bytes:
    """With the headers alone; the status stands in folded fields, and without an Original-Recipient."""
    return _crlf(f"""\
        From: Microsoft Outlook <postmaster@contoso.example>
        To: <shop@example.com>
        Date: Sun, 29 Nov 2026 10:00:00 +0000
        Content-Type: multipart/report; report-type=delivery-status; boundary="a_b"
        Message-ID: <abc@contoso.example>
        Subject: Undeliverable: Receipt
        MIME-Version: 1.0

        --a_b
        Content-Type: text/html; charset="utf-8"
        Content-Transfer-Encoding: quoted-printable

        <p>Your message wasn't delivered.</p>

        --a_b
        Content-Type: message/delivery-status

        Reporting-MTA: dns;contoso.example

        Final-recipient: RFC822;{recipient}
        Action: FAILED
        Status: 5.1.10
        Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient
         not found by SMTP address lookup

        --a_b
        Content-Type: text/rfc822-headers

        {_quoted(message_id, recipient)}

        --a_b--
        """)


def complaint(message_id: str, recipient: str, kind: str = "abuse") -> bytes:
    """A feedback report (RFC 5965), as a mailbox provider's loop sends it."""
    return _crlf(f"""\
        From: <abusedesk@example.net>
        Date: Sun, 29 Nov 2026 10:00:00 -0500
        Subject: FW: Receipt
        To: <abuse@example.com>
        Message-ID: <fbl-1@example.net>
        MIME-Version: 1.0
        Content-Type: multipart/report; report-type=feedback-report; boundary="part1"

        --part1
        Content-Type: text/plain; charset="US-ASCII"

        This is an email abuse report.

        --part1
        Content-Type: message/feedback-report

        Feedback-Type: {kind}
        User-Agent: SomeGenerator/1.0
        Version: 1
        Original-Mail-From: <shop@example.com>
        Original-Rcpt-To: <{recipient}>

        --part1
        Content-Type: message/rfc822

        {_quoted(message_id, recipient)}

        Thank you.
        --part1--
        """)


def person() -> bytes:
    """Somebody who answers."""
    return _crlf("""\
        From: Ada <ada@example.com>
        To: shop@example.com
        Subject: Re: Receipt
        Message-ID: <1@example.com>

        Thank you!
        """)


def _quoted(message_id: str, recipient: str) -> str:
    return dedent(_QUOTED).format(message_id=message_id, recipient=recipient).strip().replace("\n", "\n        ")


def _crlf(text: str) -> bytes:
    return dedent(text).replace("\n", "\r\n").encode()
