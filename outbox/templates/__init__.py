"""A template folder -> subject, text and HTML of a mail, as they will be sent.

    templates/email/receipt/subject.txt        Jinja. One line.
                            body.txt           Left out, it is made from the HTML.
                            body.html          Escapes what it is given; its <style> is written into its elements.
                            body.de.html       In German; de-AT falls back on de, and de on no locale.
                            sample.json        What the preview gives it.
                    _layout.html               For {% extends "_layout.html" %}: names are relative to templates/email.
                    _translations/de/LC_MESSAGES/messages.po

A template sees its context, and `locale`. Text and HTML of a mail are in one language: where only one of them has a
variant for the locale, the other is left out, and the text then made from the HTML.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from traceback import walk_tb
from typing import Any, NamedTuple

import css_inline
from html_to_markdown import ConversionError
from jinja2 import BaseLoader, Environment, TemplateSyntaxError, UndefinedError
from jinja2.exceptions import SecurityError, TemplateNotFound

from outbox.errors import InvalidTemplate
from outbox.settings import Settings
from outbox.templates.appearance import inlined, readable
from outbox.templates.bounds import Exceeded, bounded
from outbox.templates.nesting import TooIntricate
from outbox.templates.places import Places
from outbox.templates.sandbox import Sandbox
from outbox.templates.wording import Wording, check_locale, functions, localized_filters, wording


class Rendered(NamedTuple):
    """What a mail says. At least one of text and HTML is there."""

    subject: str
    text: str | None
    html: str | None

    def __repr__(self) -> str:
        """Not what it says: tracebacks are read by those whom the mail is not for."""
        return "<Rendered>"


class Templates:
    """The templates of some places, each file read and compiled once, when it is first needed.

    A place is a folder, or `package:folder` in a Python package; the first that has a template wins, and the first that
    has a layout or include. One that is not there is a SettingsError as soon as a template is asked for.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self._places = Places(places)
        self._templates = cache(self._places.templates)
        self._environment = _Environment(self._places)

    def names(self) -> list[str]:
        """Every template, sorted."""
        return sorted(self._templates())

    def locales(self, name: str) -> list[str]:
        """The locales that a template has a text of its own for, besides the default."""
        return self._places.locales(name, self._place(name))

    def render(
        self, name: str, context: Mapping[str, Any], locale: str | None = None, unsubscribe_url: str | None = None
    ) -> Rendered:
        """Raises InvalidTemplate, naming file, line and variable; InvalidEmail for a locale that nobody knows."""
        place = self._place(name)
        own = {} if unsubscribe_url is None else {"unsubscribe_url": unsubscribe_url}
        check_locale(locale)
        token = wording.set(Wording(locale, self._places.translations(locale)))
        try:
            with bounded():
                variables = {**context, **own, "locale": wording.get().tag}
                subject, text, html = (
                    file and self._file(name, file, variables) for file in self._files(name, place, locale)
                )
                if subject is None or text is None is html:
                    missing = "subject.txt" if subject is None else "body.html, nor body.txt,"
                    raise InvalidTemplate("template", name, f"it has no {missing} in {place}: add it")
                return _finished(name, subject, text, html)
        finally:
            wording.reset(token)

    def sample(self, name: str, locale: str | None = None) -> dict[str, Any]:
        """What its `sample.json` holds, or that of the locale."""
        place = self._place(name)
        check_locale(locale)
        found = self._places.find(f"{name}/sample.json", locale, place)
        if found is None:
            raise InvalidTemplate("template", name, f"it has no sample.json in {place}: add one, with its variables")
        try:
            read = self._places.read(found[0])
            sample = json.loads(read[0] if read else "")
        except (ValueError, RecursionError) as error:
            raise InvalidTemplate("template", name, f"{found[0]} is not JSON: {error}") from error
        if not isinstance(sample, dict):
            raise InvalidTemplate("template", name, f"{found[0]} holds no object: write {{...}}, with its variables")
        return sample

    def _place(self, name: object) -> str:
        templates = self._templates()
        if isinstance(name, str) and name in templates:
            return templates[name]
        close = difflib.get_close_matches(str(name), templates, n=3)
        remedy = f"did you mean {' or '.join(map(repr, close))}?" if close else "make a folder of that name"
        raise InvalidTemplate("template", name, f"there is no such template; {remedy}")

    def _files(self, name: str, place: str, locale: str | None) -> tuple[str | None, str | None, str | None]:
        """Of subject, text and HTML; the last two in one language."""
        subject, text, html = (
            self._places.find(f"{name}/{file}", locale, place) for file in ("subject.txt", "body.txt", "body.html")
        )
        if text and html and bool(text[1]) != bool(html[1]):
            text, html = (text, None) if text[1] else (None, html)
        return subject and subject[0], text and text[0], html and html[0]

    def _file(self, name: str, file: str, variables: Mapping[str, Any]) -> str:
        try:
            rendered = self._environment.get_template(file).render(variables)
            rendered.encode()
        except UnicodeEncodeError as error:
            raise _unwritable(
                name, file, "writes what is not Unicode text: look for a lone surrogate in the context"
            ) from error
        except Exception as error:  # a filter raises what it likes, and so does the application's code in the context
            raise _explained(name, file, error, variables) from error
        if "\0" in rendered:
            raise _unwritable(name, file, "writes a NUL, which text cannot hold: look for it in the context")
        return rendered


def _unwritable(name: str, file: str, problem: str) -> InvalidTemplate:
    return InvalidTemplate("template", name, f"{file} {problem}")


def _finished(name: str, subject: str, text: str | None, html: str | None) -> Rendered:
    subject = subject.strip()
    if len(subject.splitlines()) > 1:
        raise InvalidTemplate("template", name, "its subject has several lines: a subject is one")
    if html is not None:
        try:
            html = inlined(html)
            text = (readable(html) or None) if text is None else text
        except (TooIntricate, css_inline.InlineError, ConversionError) as error:
            raise InvalidTemplate("template", name, f"its HTML cannot be made ready for mail: {error}") from error
    return Rendered(subject, text, html)


class _Environment(Sandbox):
    """Layouts and includes fall back on the languages of the mail, too."""

    def __init__(self, places: Places) -> None:
        self._places = places
        super().__init__(
            loader=_Loader(places),
            autoescape=lambda name: bool(name and name.endswith(".html")),
            extensions=["jinja2.ext.i18n"],
        )
        self.newstyle_gettext = True
        self.globals.update(functions())
        self.filters.update(localized_filters())

    def join_path(self, template: str, parent: str) -> str:
        """The variant of a layout or include for the mail's locale."""
        if parent.endswith(".html") and not template.endswith(".html"):
            raise SecurityError(f"{template!r} in HTML would escape nothing that it is given: name it *.html")
        found = self._places.find(template, wording.get().name)
        return found[0] if found else template


class _Loader(BaseLoader):
    def __init__(self, places: Places) -> None:
        self._places = places

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Callable[[], bool] | None]:
        found = self._places.read(template)
        if found is None:
            raise TemplateNotFound(template)
        return *found, lambda: True


def _explained(name: str, file: str, error: Exception, variables: Mapping[str, Any]) -> InvalidTemplate:
    """Where it happened, what, and what to do about it."""
    where, line = _where(error)
    problem, remedy = str(error), _remedy(error, variables)
    if isinstance(error, TemplateNotFound):
        problem = f"there is no {error.name!r}"
    elif not isinstance(error, (TemplateSyntaxError, UndefinedError, SecurityError, Exceeded)):
        problem = f"{type(error).__name__}: {problem}"
    at = f"{where or file}, line {line}" if line else where or file
    return InvalidTemplate("template", name, f"{at}: {problem}{remedy}")


def _where(error: Exception) -> tuple[str | None, int | None]:
    if isinstance(error, TemplateSyntaxError):
        return error.filename or error.name, error.lineno
    lines = [
        (frame.f_code.co_filename, line)
        for frame, line in walk_tb(error.__traceback__)
        if "__jinja_exception__" in frame.f_globals  # how Jinja marks the lines of templates
    ]
    return lines[-1] if lines else (None, None)


def _remedy(error: Exception, variables: Mapping[str, Any]) -> str:
    if isinstance(error, TemplateNotFound):
        return "; names are relative to the folders of OUTBOX_TEMPLATES, and nothing outside of them can be read"
    missing = re.match(r"'(\w+)' is undefined", str(error)) if isinstance(error, UndefinedError) else None
    if missing is None:
        return ""
    variable = missing[1]
    if variable == "unsubscribe_url":
        return "; only mail of a category in OUTBOX_SUBSCRIPTIONS has one"
    close = difflib.get_close_matches(variable, variables, n=1)
    guess = f" (it has {close[0]!r})" if close else ""
    return f"; give it in context{guess}, or write {{{{ {variable}|default(...) }}}}"


@cache
def _shared(places: tuple[str, ...]) -> Templates:
    return Templates(places)


def of(settings: Settings) -> Templates:
    """The templates of OUTBOX_TEMPLATES, compiled once for the process."""
    return _shared(settings.outbox_templates)
