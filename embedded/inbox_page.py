"""The inbox in a browser: the newest messages, and each of them in full.

A mail is hostile until proven otherwise: everything is escaped, its HTML is shown in a sandboxed frame that may run
nothing and fetch nothing, and its attachments can only be downloaded. Its links open when they are clicked, each in a
tab of its own, which knows nothing of the inbox: to follow them is what a mail to unsubscribe from is looked at for.
"""

import base64
import io
import mimetypes
from datetime import datetime
from email.message import EmailMessage, MIMEPart
from email.policy import SMTP
from typing import cast

from flask import Blueprint, Flask, Response, abort, current_app, render_template, send_file

from embedded.maildir import Maildir, Received

SHOWN = 200
"""Messages in the list: more than anyone reads, quick enough to be asked for every two seconds."""

_OURS = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SANDBOX = "allow-popups allow-popups-to-escape-sandbox"
"""A page that is opened in the sandbox could not submit its forms."""

_THEIRS = f"sandbox {_SANDBOX}; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
"""For whatever came in by mail: no script, nothing from anywhere else, not even a counting pixel."""

page = Blueprint("inbox", __name__)


def create_page(maildir: Maildir) -> Flask:
    """The WSGI application that shows this Maildir."""
    app = Flask(__name__)
    app.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost"]  # or any page on the web could read it (DNS rebinding)
    app.extensions["maildir"] = maildir
    app.register_blueprint(page)
    app.add_template_filter(_size, "size")
    app.add_template_filter(_time, "time")
    app.after_request(_guard)
    return app


@page.get("/")
def messages() -> str:
    """The newest messages."""
    return render_template("inbox.html", messages=list(_maildir().newest(SHOWN)), total=_maildir().count())


@page.get("/mail/<key>")
def message(key: str) -> str:
    """One message."""
    found = _message(key)
    parsed = found.parsed()
    return render_template(
        "mail.html",
        mail=found,
        text=_body(parsed, "plain"),
        html=_body(parsed, "html") is not None,
        sandbox=_SANDBOX,
        attachments=[(number, _filename(part, number), part) for number, part in _attachments(parsed)],
    )


@page.get("/mail/<key>/html")
def html(key: str) -> Response:
    """The HTML part, for the sandboxed frame, with its inline images in place."""
    parsed = _message(key).parsed()
    body = _body(parsed, "html")
    if body is None:
        abort(404)
    for part in parsed.walk():
        if part["Content-ID"] and part.get_content_maintype() == "image":
            image = f"data:{part.get_content_type()};base64,{base64.b64encode(_content(part)).decode()}"
            body = body.replace(f"cid:{part['Content-ID'].strip('<> ')}", image)
    # At the end, where it counts as well: before the mail's doctype it would change how all of it is shown.
    return _mailed(Response(f'{body}<base target="_blank">', content_type="text/html; charset=utf-8"))


@page.get("/mail/<key>/attachments/<int:number>")
def attachment(key: str, number: int) -> Response:
    """An attachment, to be saved: never shown in place, whatever it says it is."""
    parts = dict(_attachments(_message(key).parsed()))
    part = parts.get(number) or abort(404)
    return _mailed(
        send_file(
            io.BytesIO(_content(part)),
            mimetype="application/octet-stream",
            as_attachment=True,
            download_name=_filename(part, number),
        )
    )


@page.get("/mail/<key>/raw")
def raw(key: str) -> Response:
    """The message as it came over the wire."""
    return _mailed(Response(_message(key).raw, content_type="text/plain; charset=utf-8"))


def _maildir() -> Maildir:
    return cast("Maildir", current_app.extensions["maildir"])


def _message(key: str) -> Received:
    return _maildir().get(key) or abort(404)


def _body(parsed: EmailMessage, kind: str) -> str | None:
    part = parsed.get_body((kind,))
    # Not get_content(): an unknown charset, or bytes that it does not have, must not cost the reader the rest.
    return None if part is None else _decoded(part)


def _decoded(part: MIMEPart) -> str:
    charset = part.get_content_charset("utf-8")
    try:
        return _content(part).decode(charset, errors="replace")
    except LookupError:
        return _content(part).decode("latin-1")


def _content(part: MIMEPart) -> bytes:
    payload = part.get_payload(decode=True)
    if isinstance(payload, bytes):
        return payload
    inner = part.get_payload()  # a forwarded message: message/rfc822 holds messages, not bytes
    return b"\r\n".join(item.as_bytes(policy=SMTP) for item in inner if isinstance(item, EmailMessage))


def _attachments(parsed: EmailMessage) -> list[tuple[int, EmailMessage]]:
    """Every part that is neither the body nor an image standing in it, numbered from 1."""
    if not parsed.is_multipart():
        return []
    parts = cast("list[EmailMessage]", list(parsed.iter_attachments()))
    kept = (part for part in parts if not part["Content-ID"] or part.get_content_disposition() == "attachment")
    return list(enumerate(kept, start=1))


def _filename(part: EmailMessage, number: int) -> str:
    extension = mimetypes.guess_extension(part.get_content_type()) or ".bin"
    return part.get_filename() or f"attachment-{number}{extension}"


def _mailed(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _THEIRS
    return response


def _guard(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", _OURS)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def _size(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1e6:.1f} MB"  # noqa: PLR2004 - kilo, mega


def _time(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")
