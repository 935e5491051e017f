"""The pages for whoever runs this. Until there are accounts, one password opens them all: that of the user `admin`."""

from hmac import compare_digest

from flask import Blueprint, Response, current_app, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.admin.templates_pages import templates_pages

USER = "admin"

_POLICY = "default-src 'none'; style-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'"

admin = Blueprint("admin", __name__, url_prefix="/admin")
admin.register_blueprint(templates_pages)


@admin.get("/")
def index() -> AnyResponse:
    """The first of the pages."""
    return redirect(url_for("admin.templates.index"))


@admin.before_request
def _guard() -> Response | None:
    """Nobody gets past without the password; where none is set, nobody at all."""
    password = current_app.extensions["settings"].admin_password
    if password is None:
        return make_response(render_template("admin/closed.html"), 403)
    given = request.authorization
    if given is not None and given.type == "basic":
        # Both are always compared, and in a time that says nothing about where they differ.
        user_fits = compare_digest((given.username or "").encode(), USER.encode())
        password_fits = compare_digest((given.password or "").encode(), password.get_secret_value().encode())
        if user_fits & password_fits:
            return None
    answer = make_response("The user is admin, and the password is what ADMIN_PASSWORD says.\n", 401)
    answer.mimetype = "text/plain"
    answer.headers["WWW-Authenticate"] = 'Basic realm="Outbox", charset="UTF-8"'
    return answer


@admin.after_request
def _headers(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", _POLICY)
    response.headers.setdefault("X-Frame-Options", "DENY")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"  # CSRFProtect looks for the referrer under https
    response.headers["Cache-Control"] = "no-store"
    return response
