"""The queue: searched by whatever is known of a mail, newest first."""

from urllib.parse import urlencode

from flask import Blueprint, flash, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from app.accounts.access import me
from app.accounts.zones import zone_of
from app.admin import criteria
from app.admin.moves import possible
from app.database import LARGEST_ID, request_session
from app.fields import Fields
from outbox import searching
from outbox.addresses import parse_mailbox
from outbox.errors import InvalidAddress
from outbox.models import QueuedEmail
from outbox.searching import Filter, Page
from outbox.states import Status

_PAGE = 50

mails_pages = Blueprint("mails", __name__, url_prefix="/mail")


@mails_pages.get("/")
def index() -> str | Response:
    """What the address asks for, a page of it."""
    wanted, before = criteria.read(request.args, me()), Fields(request.args).id("before")
    address = criteria.spelled(wanted) | ({"before": str(before)} if before else {})
    if request.args.to_dict() != address:
        return redirect(url_for(".index", **address))  # a form sends its empty fields, too, and times without offset
    page = searching.page(request_session(), wanted, before=before, limit=_PAGE)
    return render_template(
        "admin/mails.html",
        wanted=wanted,
        page=page,
        before=before,
        address=criteria.spelled(wanted),
        here=request.full_path.removesuffix("?"),
        further=urlencode(criteria.spelled(wanted) | {"before": str(page.next_before)}),
        choices=criteria,
        moves=possible(_seen(page)),
        in_bulk=possible(_all(wanted, page, before)),
        zone=zone_of(me().time_zone),
    )


@mails_pages.get("/find")
def find() -> Response:
    """Whatever somebody has at hand: the number of a mail, an address, a Message-ID, a request, words of a subject."""
    typed = Fields(request.args).text("q", criteria.LONGEST)
    if not typed:
        return redirect(url_for(".index"))
    session = request_session()
    number = typed.lower().removeprefix("mail").strip().removeprefix("#")
    if number.isascii() and number.isdigit():
        if len(number) < len(str(LARGEST_ID)) and session.get(QueuedEmail, int(number)) is not None:
            return redirect(url_for("admin.mail.show", id_=int(number)))
        flash(f"There is no mail {number}.", "trouble")
    wanted = _meant(session, typed)
    found = searching.page(session, wanted, limit=2)
    if len(found.mails) == 1 and found.next_before is None:
        return redirect(url_for("admin.mail.show", id_=found.mails[0].id))
    return redirect(url_for(".index", **criteria.spelled(wanted)))


def _seen(page: Page) -> set[Status]:
    return {Status(mail.status) for mail in page.mails}


def _all(wanted: Filter, page: Page, before: int | None) -> set[Status]:
    """Those that mails beyond the page may have, too, if there are any."""
    if before is None and page.next_before is None:
        return _seen(page)
    return ({wanted.status} if wanted.status else set(Status)) if page.mails else set()


def _meant(session: Session, typed: str) -> Filter:
    """What an index finds first. A Message-ID looks like an address, so it is looked up whether there is such a one."""
    typed = typed.removeprefix("Message-ID:").strip()
    key = Filter(message_id=typed) if "@" in typed else Filter(request_id=typed)
    if searching.page(session, key, limit=1).mails:
        return key
    if "@" not in typed:
        return Filter(subject=typed)
    try:
        return Filter(recipient=parse_mailbox("q", typed).address)
    except InvalidAddress:
        return Filter(recipient=typed.strip("<>"))
