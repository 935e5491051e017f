"""The OpenAPI document, by spectree, and its checks of what comes in, made as strict as the document is."""

from typing import Any

from flask import Request
from pydantic import BaseModel, ValidationError
from spectree import Response, SpecTree
from spectree.models import SecureType, SecurityScheme, SecuritySchemeData
from spectree.plugins.base import Context
from spectree.plugins.flask_plugin import FlaskPlugin
from werkzeug.exceptions import BadRequest, HTTPException, UnprocessableEntity, UnsupportedMediaType

from app.accounts.tokens import Scope
from app.api.documents import Problem
from app.database import LARGEST_ID

_DESCRIPTION = """\
Queue mail and see what became of it, from programs in any language.

Send an API token with the scopes that you need: `Authorization: Bearer obx_...`. Admins make them on their account's
page. Errors are JSON, too: `error` says what was wrong, with which value, and what to do.
"""

_WAIT = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
_HEADERS = {
    "201": {"Location": {"description": "The mail to the first recipient.", "schema": {"type": "string"}}},
    "401": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    "429": {"Retry-After": _WAIT},
    "503": {"Retry-After": _WAIT},
}
"""Of answers. spectree has no words for them."""


class Malformed(UnprocessableEntity):
    """What was sent is not what the document asks for."""

    def __init__(self, error: ValidationError) -> None:
        problems = error.errors(include_url=False, include_context=False)
        # Of a value that may be this or that, the alternative that fitted furthest: `to[1]`, and not `to`.
        first = max(
            (one for one in problems if one["loc"][:1] == problems[0]["loc"][:1]), key=lambda one: len(one["loc"])
        )
        self.field = _named(first["loc"])
        shown = repr(first["input"])
        shown = f"={shown}" if len(shown) <= _SHOWN and first["type"] != "missing" else ""
        said = first["msg"].removeprefix("Value error, ")
        super().__init__(f"{self.field or 'the request'}{shown}: {said[:1].lower()}{said[1:]}.")


_SHOWN = 120
"""Characters of a value that an error repeats."""


class _Strict(FlaskPlugin):
    """spectree's takes a body that is no JSON, or says so, for `{}`."""

    def request_validation(  # noqa: PLR0917 - spectree's signature
        self,
        request: Request,
        query: type[BaseModel] | None,
        json: type[BaseModel] | None,
        form: None,
        headers: type[BaseModel] | None,
        cookies: None,
    ) -> None:
        """Read what the view wants, or raise Malformed and its like."""
        try:
            request.context = Context(  # type: ignore[attr-defined]  # where spectree looks for it
                query and query.model_validate({name: _single(got) for name, got in request.args.lists()}),
                json and _body(request, json),
                form,
                headers and headers.model_validate(dict(request.headers)),
                cookies,
            )
        except ValidationError as error:
            raise Malformed(error) from error

    def parse_path(self, route: Any, path_parameter_descriptions: Any) -> tuple[str, list[dict[str, Any]]]:
        """Ids have 64 bits, not the 32 that it takes every integer for."""
        path, parameters = super().parse_path(route, path_parameter_descriptions)
        for parameter in parameters:
            parameter["schema"] = {"type": "integer", "format": "int64", "minimum": 0, "maximum": LARGEST_ID}
        return path, parameters


def _single(values: list[str]) -> str | list[str]:
    """A list, of what is given twice, is no value that any parameter takes."""
    return values[0] if len(values) == 1 else values


def _body(request: Request, model: type[BaseModel]) -> BaseModel:
    if not request.is_json:
        raise UnsupportedMediaType("Send JSON, as Content-Type: application/json.")
    try:
        return model.model_validate_json(request.get_data(cache=False))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise BadRequest(f"The body is no JSON: {first['ctx']['error']}.") from error
        raise


def _named(location: tuple[int | str, ...]) -> str:
    """`attachments[0].content`; without the alternatives of a union, which pydantic names in between."""
    name = ""
    for step in location:
        if isinstance(step, int):
            name += f"[{step}]"
        elif not name or (step.isidentifier() and step not in {"str", "list"}):
            name += f".{step}" if name else step
    return name


document = SpecTree(
    backend=_Strict,
    mode="strict",
    title="Outbox",
    version="1",
    description=_DESCRIPTION,
    validation_error_model=Problem,
    naming_strategy=lambda model: model.__name__,
    nested_naming_strategy=lambda _, child: child,
    security_schemes=[SecurityScheme(name="token", data=SecuritySchemeData(type=SecureType.HTTP, scheme="bearer"))],
    security={"token": []},
)


def answers(**models: type[BaseModel]) -> Response:
    """Those of a view, by status (`HTTP_200`), with those that every view may give."""
    common = dict.fromkeys(("HTTP_401", "HTTP_403", "HTTP_422", "HTTP_429", "HTTP_503"), Problem)
    return Response(**(common | models))


def secured(scope: Scope) -> dict[str, list[str]]:
    """For a view's `security`."""
    return {"token": [scope.value]}


def written() -> dict[str, Any]:
    """The document of this application."""
    found: dict[str, Any] = document.spec
    operations = [operation for path in found["paths"].values() for operation in path.values()]
    for answer in (answer for operation in operations for answer in operation["responses"].items()):
        status, told = answer
        if status in _HEADERS:
            told["headers"] = _HEADERS[status]
    return found


def describe(error: HTTPException) -> dict[str, str]:
    """What an error says besides its sentence."""
    return {"field": error.field} if isinstance(error, Malformed) and error.field else {}
