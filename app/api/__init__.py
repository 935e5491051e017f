"""The HTTP API, for programs in other languages: `/api/emails`, and its OpenAPI document at `/api/openapi.json`.

A token says who asks, and a cookie says nothing here: no page of another site can make a browser send the token, so
there is no form to protect. To queue mail to anybody through this site's relay is an admin's privilege, and to read
what became of it shows who was written to: so the tokens are admins', and each sees all mail, as its admin does.
"""

from flask import Blueprint, Response, jsonify
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import Conflict, HTTPException, UnprocessableEntity
from werkzeug.wrappers import Response as AnyResponse

from app.accounts.access import ask_nobody
from app.answers import in_json
from app.api import bounds, openapi
from app.api.emails import emails
from outbox.errors import InvalidEmail, NotPossible

api = Blueprint("api", __name__, url_prefix="/api")
api.register_blueprint(emails)


@api.record
def _prepare(state: BlueprintSetupState) -> None:
    bounds.prepare(state)
    for room in (api, emails):
        state.app.extensions["csrf"].exempt(room)


@api.get("/openapi.json")
def document() -> Response:
    """For whoever writes a client: nothing in it is secret."""
    ask_nobody()
    return jsonify(openapi.written())


@api.errorhandler(HTTPException)
def _told(error: HTTPException) -> AnyResponse:
    return in_json(error, **openapi.describe(error))


@api.errorhandler(InvalidEmail)
def _invalid(error: InvalidEmail) -> AnyResponse:
    return in_json(UnprocessableEntity(f"{str(error).removesuffix('.')}."), field=error.field)


@api.errorhandler(NotPossible)
def _conflict(error: NotPossible) -> AnyResponse:
    return in_json(Conflict(f"{error}."))
