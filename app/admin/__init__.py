"""The pages for whoever runs this: users whose role is admin."""

from flask import Blueprint, Response, abort
from flask_login import current_user

from app.accounts.access import is_admin, log_in_first
from app.admin.mail_pages import mail_pages
from app.admin.mails_pages import mails_pages
from app.admin.moves_pages import moves_pages
from app.admin.overview import overview
from app.admin.record_pages import record_pages
from app.admin.relays_pages import relays_pages
from app.admin.suppressions_pages import suppressions_pages
from app.admin.tasks_pages import tasks_pages
from app.admin.telling import tell_plainly
from app.admin.templates_pages import templates_pages
from app.answers import POLICY

admin = Blueprint("admin", __name__, url_prefix="/admin")
for pages in (
    mails_pages,
    mail_pages,
    moves_pages,
    relays_pages,
    suppressions_pages,
    templates_pages,
    tasks_pages,
    record_pages,
):
    admin.register_blueprint(pages)
tell_plainly(admin)


@admin.before_request
def _guard() -> Response | None:
    """Of all pages, so that none can be forgotten."""
    if not current_user.is_authenticated:
        return log_in_first()
    if not is_admin():
        abort(403)
    return None


@admin.get("/")
def index() -> str:
    """The overview."""
    return overview()


@admin.after_request
def _headers(response: Response) -> Response:
    """Mails and previews stand in frames."""
    response.headers.setdefault("Content-Security-Policy", f"{POLICY}; frame-src 'self'")
    response.headers.setdefault("X-Frame-Options", "DENY")
    return response
