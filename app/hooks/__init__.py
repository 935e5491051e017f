"""What providers post: bounces, complaints, deliveries. `POST /hooks/<provider>`.

A provider proves itself by its signature or password, read in its own file; no cookie is looked at, so there is nothing
that a CSRF token would protect.

The status tells the provider whether to come again. 503: it shall, for our database or a setting is missing. 403, 413:
it need not; most try a few times all the same. 200: done, and that includes events of mails that we do not know (they
went from another system through the same account, or were purged since): no later try would find them.
"""

import logging
from typing import cast

import redis
from flask import Blueprint, Response, abort, current_app, jsonify, request
from flask.blueprints import BlueprintSetupState
from limits import parse
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, ServiceUnavailable, TooManyRequests

from app.accounts.access import ask_nobody
from app.accounts.throttle import network
from app.answers import in_json
from app.hooks import mailgun, postmark, sendgrid, ses
from app.hooks.notices import OLDEST, Posted, Reader, Refused, Unavailable, Unconfigured
from app.nudge import connect
from app.rates import Allowance
from app.settings import AppSettings
from outbox import feedback
from outbox.logs import tell

log = logging.getLogger(__name__)

LARGEST_BODY = 2_000_000
"""Bytes of a notice. SendGrid's, of up to a thousand events, come near to one million."""

REFUSALS = parse("60 per minute")
"""Of one network and provider, before nothing more of it is read: to look at a signature costs more than to make up
one. Who signs well is never counted."""

READERS: dict[str, Reader] = {
    "ses": ses.read,
    "sendgrid": sendgrid.read,
    "postmark": postmark.read,
    "mailgun": mailgun.read,
}

hooks = Blueprint("hooks", __name__, url_prefix="/hooks")


@hooks.record
def _prepare(state: BlueprintSetupState) -> None:
    redis_url = cast("AppSettings", state.app.extensions["settings"]).redis_url
    state.app.extensions["hook_refusals"] = Allowance(redis_url, "refused notices")
    state.app.extensions["hook_tokens"] = connect(redis_url)
    state.app.extensions["csrf"].exempt(hooks)


@hooks.before_request
def _without_a_login() -> None:
    request.max_content_length = LARGEST_BODY
    ask_nobody()


@hooks.post("/<provider>")
def receive(provider: str) -> Response:
    """Take a notice. Answers with how many of its events were recorded, known, or of no mail of ours."""
    reader = READERS.get(provider)
    if reader is None:
        abort(404, f"There is no provider {provider[:40]!r} here: use {', '.join(READERS)}.")
    _check_refusals(provider)
    posted = Posted(request.get_data(cache=False), request.headers, _settings(), _remember)
    events = _read(provider, reader, posted)
    with current_app.extensions["engine"].begin() as connection:
        taken = feedback.take(connection, events)
    counts = {outcome.value: taken[outcome] for outcome in feedback.Taken}
    tell(
        log, logging.INFO, "feedback.received",
        "feedback: %(provider)s told of %(recorded)d events, of %(known)d again, and of %(unknown)d of no mail of ours",
        provider=provider, **counts,
    )  # fmt: skip
    return jsonify(counts)


def _read(provider: str, reader: Reader, posted: Posted) -> list[feedback.Event]:
    try:
        return reader(posted)
    except Refused as refused:
        _tell_refused(provider, str(refused))
        _refusals().takes(REFUSALS, *_sender(provider))
        abort(403, f"This notice is refused: it is {refused}.")
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        _tell_refused(provider, f"{where}: {first['msg']}")
        _refusals().takes(REFUSALS, *_sender(provider))
        abort(400, f"This is no notice of {provider}: {where}: {first['msg']}.")
    except Unconfigured as missing:
        _tell_refused(provider, f"{missing} is not set")
        raise ServiceUnavailable(f"{missing} is not set here.", retry_after=3600) from missing
    except Unavailable as away:
        _tell_refused(provider, str(away))
        raise ServiceUnavailable("It cannot be checked now. Please try again.", retry_after=60) from away


def _tell_refused(provider: str, why: str) -> None:
    sentence = "feedback: a notice of %(provider)s is refused: %(why)s"
    tell(log, logging.WARNING, "feedback.refused", sentence, provider=provider, why=why)


def _check_refusals(provider: str) -> None:
    sender = _sender(provider)
    if not _refusals().has_room(REFUSALS, *sender):
        wait = _refusals().seconds_left(REFUSALS, *sender)
        raise TooManyRequests("Too many notices from here were refused. Please wait.", retry_after=wait)


def _remember(token: str, what: str) -> bool:
    """In Redis; without it nothing can be believed that came once already."""
    tokens: redis.Redis = current_app.extensions["hook_tokens"]
    key = f"outbox:hook:{token}"
    try:
        if tokens.set(key, what, nx=True, ex=OLDEST):
            return True
        return tokens.get(key) == what.encode()
    except (redis.RedisError, OSError) as error:
        raise Unavailable(f"Redis does not answer ({error})") from error


hooks.register_error_handler(HTTPException, in_json)


def _sender(provider: str) -> tuple[str, str, str]:
    return ("hooks", provider, network(request.remote_addr))


def _refusals() -> Allowance:
    return cast("Allowance", current_app.extensions["hook_refusals"])


def _settings() -> AppSettings:
    return cast("AppSettings", current_app.extensions["settings"])
