"""The pages for whoever runs this: users whose role is admin."""

from flask import Blueprint, Response, abort, current_app, render_template, url_for
from flask_login import current_user

from app.accounts.access import is_admin, log_in_first
from app.admin.templates_pages import templates_pages
from app.answers import POLICY
from app.background import accepted, dispatch
from app.queues import SEND_DAILY_REMINDERS

admin = Blueprint("admin", __name__, url_prefix="/admin")
admin.register_blueprint(templates_pages)


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
    """What there is."""
    settings = current_app.extensions["settings"]
    return render_template(
        "admin/index.html", reminder_hour=settings.daily_reminder_hour, time_zone=settings.celery_timezone
    )


@admin.post("/send-reminders")
def send_reminders() -> Response:
    """Do now what beat does daily. Whoever had theirs today gets no second one."""
    return accepted(dispatch(SEND_DAILY_REMINDERS), "The reminders are being sent", url_for(".index"))


@admin.after_request
def _headers(response: Response) -> Response:
    """The previews stand in frames."""
    response.headers.setdefault("Content-Security-Policy", f"{POLICY}; frame-src 'self'")
    response.headers.setdefault("X-Frame-Options", "DENY")
    return response
