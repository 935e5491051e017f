"""Words, dates and numbers in the language of a mail: Babel's filters, and translations from `messages.po`."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from copy import copy
from datetime import UTC, date, datetime, time, tzinfo
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache, wraps
from gettext import NullTranslations
from io import BytesIO
from typing import Any
from zoneinfo import ZoneInfo

from babel import Locale, UnknownLocaleError, dates, numbers
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import Translations
from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from outbox.errors import InvalidEmail
from outbox.templates.bounds import Exceeded, check_width, formatted, spend

DEFAULT = "en"
"""Of mail that is queued without a locale: what `sample` and the words of most templates are in."""

LARGEST = 10**30
"""A number that is written out: no sum of money has more digits, and `Decimal("1E+999999")` has a million."""

_DEAR = 50
"""Steps that a date or number costs: Babel takes some 20 microseconds for it."""

LONGEST_PATTERN = 100
"""Characters of a pattern for dates or numbers."""


_BROKEN_LINE = re.compile(rb'"\s+"')
_MANY_PLURALS = re.compile(rb"nplurals(?:\s|\\[nrt])*=(?:\s|\\[nrt])*\d\d")
"""Babel would make as many texts for each message."""

_NAME = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")


class Wording:
    """A locale, and its translations."""

    def __init__(self, name: str | None, translations: NullTranslations) -> None:
        self.name = name
        self.babel = parse_locale(name or DEFAULT)
        self.tag = (name or DEFAULT).replace("_", "-")
        self.translations = translations


def check_locale(name: object) -> None:
    """Raises InvalidEmail for a locale that Babel does not know. None is the default language."""
    if name is None:
        return
    if not isinstance(name, str):
        raise _unknown(name)
    parse_locale(name)


wording: ContextVar[Wording] = ContextVar("outbox_wording")
"""Of the mail that is being rendered in this thread."""


@lru_cache(maxsize=1000)  # as many as Babel knows
def parse_locale(name: str) -> Locale:
    """Raises InvalidEmail for a locale that Babel does not know."""
    try:
        if _NAME.fullmatch(name):
            return Locale.parse(name.replace("-", "_"))
    except (UnknownLocaleError, ValueError, TypeError):
        pass
    raise _unknown(name)


def _unknown(name: object) -> InvalidEmail:
    return InvalidEmail("locale", name, "not a locale that Babel knows: give a language, such as de, or de-AT")


def ladder(name: str | None) -> tuple[str, ...]:
    """`de-AT` -> `de-at`, `de`: where a variant is looked for, before the default."""
    if name is None:
        return ()
    parts = name.replace("_", "-").lower().split("-")
    return tuple("-".join(parts[:length]) for length in range(len(parts), 0, -1))


def read_catalog(po: bytes) -> Translations:
    """A `.po` file, as translators write it; compiled here and now, without what is marked fuzzy."""
    if _MANY_PLURALS.search(_BROKEN_LINE.sub(b"", po)):
        raise ValueError("its nplurals is larger than 9, and no language has as many plural forms")
    compiled = BytesIO()
    write_mo(compiled, read_po(BytesIO(po), abort_invalid=True))
    compiled.seek(0)
    return Translations(compiled)


def functions() -> dict[str, Callable[..., Any]]:
    """What `{% trans %}` calls, and a template may call."""
    return {"_": _gettext, "gettext": _gettext, "ngettext": _ngettext}


def localized_filters() -> dict[str, Callable[..., Any]]:
    """Name -> filter."""
    filters = (_date, _time, _datetime, _number, _currency, _percent)
    return {filter_.__name__.removeprefix("_"): _dear(filter_) for filter_ in filters}


def _dear(filter_: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(filter_)
    def paid(*args: Any, **options: Any) -> Any:
        spend(_DEAR)
        return filter_(*args, **options)

    return paid


@pass_context
def _gettext(context: Context, message: str, /, **variables: Any) -> str:
    words = wording.get().translations.gettext(message)
    return _filled(context, words, variables, safe=isinstance(message, Markup))


@pass_context
def _ngettext(context: Context, singular: str, plural: str, num: int, /, **variables: Any) -> str:
    words = wording.get().translations.ngettext(singular, plural, num)
    safe = isinstance(singular, Markup) and isinstance(plural, Markup)
    return _filled(context, words, {"num": num} | variables, safe=safe)


def _filled(context: Context, words: str, variables: Mapping[str, Any], *, safe: bool) -> str:
    """`%(name)s` filled in, as in Jinja's new style. `sandbox` marks what stands in the template itself as safe."""
    text = str(words)
    if context.eval_ctx.autoescape:
        text = Markup(text) if safe else escape(text)  # noqa: S704 - by whoever writes the template
    filled: str = formatted(text, variables)
    return filled


@pass_context
def _date(context: Context, value: date | str, format: str = "medium") -> str:  # noqa: A002 - Babel's word
    moment = _moment(value)
    if isinstance(moment, datetime) and moment.tzinfo:
        moment = moment.astimezone(_zone(context))
    return dates.format_date(moment, _pattern(format), locale=wording.get().babel)


@pass_context
def _time(context: Context, value: datetime | time | str, format: str = "short") -> str:  # noqa: A002
    moment = _moment(value)
    zone = _zone(context) if isinstance(moment, datetime) and moment.tzinfo else None
    if zone is None and isinstance(moment, datetime):
        moment = moment.time()  # as it is: Babel takes a naive time for UTC, and would convert it
    return dates.format_time(moment, _pattern(format), tzinfo=zone, locale=wording.get().babel)


@pass_context
def _datetime(context: Context, value: datetime | str, format: str = "medium") -> str:  # noqa: A002
    moment = _moment(value)
    zone = _zone(context) if moment.tzinfo else UTC
    return dates.format_datetime(moment, _pattern(format), tzinfo=zone, locale=wording.get().babel)


def _moment(value: Any) -> Any:
    """As it is; or from ISO 8601, which is how JSON has it: a sample, and the contexts that wait for a digest."""
    if not isinstance(value, str):
        return value
    for kind in (date, datetime, time):
        with suppress(ValueError):
            return kind.fromisoformat(value)
    raise ValueError("a text that is no date or time: give one, or its ISO 8601 form, such as 2026-12-24T18:00Z")


def _number(value: Any, format: str | None = None) -> str:  # noqa: A002
    return numbers.format_decimal(_writable(value), format and _pattern(format), locale=wording.get().babel)


def _currency(value: Any, currency: str, format: str | None = None) -> str:  # noqa: A002
    return numbers.format_currency(_writable(value), currency, format and _pattern(format), locale=wording.get().babel)


def _percent(value: Any, digits: int = 0) -> str:
    check_width("digits", digits)
    locale = wording.get().babel
    pattern = copy(locale.percent_formats[None])
    pattern.frac_prec = (digits, digits)
    written: str = pattern.apply(_writable(value), locale)
    return written


def _writable(value: Any) -> Any:
    if not isinstance(value, int | float | Decimal | Fraction) or isinstance(value, bool):
        raise TypeError(f"a {type(value).__name__} is not a number")
    size: Any = abs(value)
    if not size < LARGEST:
        raise Exceeded("a number of more than 30 digits")
    return value


def _pattern(pattern: str) -> Any:
    if len(pattern) > LONGEST_PATTERN:
        raise Exceeded(f"a pattern of more than {LONGEST_PATTERN} characters")
    return pattern


def _zone(context: Context) -> tzinfo:
    """`time_zone` of the context: a name, or a tzinfo."""
    zone = context.get("time_zone", UTC)
    return zone if isinstance(zone, tzinfo) else ZoneInfo(zone)
