"""What no line of the log says, whoever wrote its words: secrets never, addresses and what was to be written into the
database only with LOG_ADDRESSES, and no character that ends a line or steers a terminal.

What strangers write gets into a log by many ways: a relay's reply, a header, the words of an exception. So it is the
line that is looked at, when it is complete, rather than each of its sources. Each pattern is bounded or begins where
the run that it reads begins: a hostile text costs time in proportion to its length.
"""

import re
import socket
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from pydantic import SecretStr

from outbox.printable import safe
from outbox.settings import Settings

LONGEST = 8_000
"""Characters of a message or a field: with its JSON around it a line stays below the 16 KB at which Docker cuts it."""

SHORTEST_SECRET = 4
"""Characters. What is shorter would be found inside of every other word, and guards nothing anyway."""

_SHORT = 64
_HIDDEN = "***"

_SECRET_NAME = re.compile(r"(?i)password|passwd|secret|api_?key|token|authorization|cookie")

_IN_QUOTES = r"""b?"(?:[^"\\\r\n]|\\.)*"|b?'(?:[^'\\\r\n]|\\.)*'"""

_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    # postgresql://user:password@host, up to the last @ before the path
    (re.compile(r"(://[^\s/:@]{0,256}:)[^\s/]{1,512}@"), r"\1***@"),
    # Authorization: Bearer ..., 'Cookie': 'session=...', ("Set-Cookie", "...")
    (
        re.compile(
            r"""(?i)\b((?:proxy-)?authorization|(?:set-)?cookie)(["']?\s{0,4}[:=,]\s{0,4})"""
            rf"""({_IN_QUOTES}|[^\r\n]*)"""
        ),
        r"\1\2***",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{16,}"), r"\1 ***"),
    (re.compile(r"\bobx_[\w-]+"), "obx_***"),
    # A link of a mail is a key to its recipient's subscriptions.
    (re.compile(r"""(?i)(/(?:unsubscribe|preferences)/)[^\s?#"'<>]+"""), r"\1***"),
    # password=..., "token": "...", SECRET_KEY='...'
    (
        re.compile(
            r"""(?i)((?:password|passwd|secret(?:_key)?|api_?key|token)["']?\s{0,4}[:=]\s{0,4})"""
            rf"""({_IN_QUOTES}|[^\s,;&)\]}}]+)"""
        ),
        r"\1***",
    ),
)

_HINTS = (
    *("://", "authorization", "cookie", "bearer", "basic", "obx_", "/unsubscribe/", "/preferences/"),
    *("passw", "secret", "key", "token"),
)
"""Without one of these words none of the patterns is found: much quicker to see, and true of nearly every line."""

_DATA = re.compile(
    # Of PostgreSQL's errors, the row that broke a constraint; of SQLAlchemy's, all that the statement was given.
    r"(?s)(DETAIL:\s+|\[parameters: ).*?(?=\n\[SQL|\n\(Background|\n\nThe above exception|\Z)"
)

_QUOTED = re.compile(r'"[^"\r\n]{1,128}"(?=@)')
_APART = r"""\s<>()\[\],;:"`|{}\\"""
_WITH_AT = re.compile(rf"(?<![^{_APART}])[^{_APART}]*?(?:@|%40)[^{_APART}]*")
"""A run of characters that may stand in an address, with an @ in it; from where the run begins, or it would be read
anew from each of its characters."""

_ARGUMENT = re.compile(r"(?:/[^?@%]*\?)?(?:(?:to|cc|bcc|reply_to|from_email|recipient|email)=)?[^\w%]*")
"""What is before the address within such a run: `to='ada@...`, as our own errors have it; `/path?email=ada%40...`."""

_OURS = re.compile(r"celery\w*|outbox-(?:\d+|drain)|w\d+")
"""What workers are called, before the @ and the name of their host."""

_HOST = socket.gethostname()


class Mask:
    """Goes over all that a line has. `addresses`: they may be seen, and so may what was given to the database."""

    def __init__(self, secrets: Iterable[str] = (), *, addresses: bool = False) -> None:
        spelled = {form for secret in secrets if len(secret) >= SHORTEST_SECRET for form in _spellings(secret)}
        self._known = sorted(spelled, key=len, reverse=True)  # one may be a part of another
        self._addresses = addresses
        self._text_again = lru_cache(1024)(self._text)  # names of relays, tasks and events come with every line

    @classmethod
    def of(cls, settings: Settings, *, addresses: bool) -> "Mask":
        """That knows the settings' own secrets."""
        return cls(_secrets_of(settings), addresses=addresses)

    def __call__(self, value: Any, keep: str = "") -> Any:
        """The value, or what may be shown of it. `keep`: characters to let pass although they do not print."""
        if value is None or isinstance(value, (int, float)):
            return value
        if not isinstance(value, str):
            if isinstance(value, Mapping):
                return {str(key): _HIDDEN if _is_secret(str(key)) else self(item, keep) for key, item in value.items()}
            if isinstance(value, list | tuple | set | frozenset):
                return [self(item, keep) for item in value]
        text = str(value)
        text = self._text_again(text) if len(text) <= _SHORT else self._text(text)
        text = text if text.isprintable() else safe(text, keep)
        if len(text) > LONGEST:
            half = LONGEST // 2  # what a traceback comes to stands at its end
            text = f"{text[:half]}... {len(text) - LONGEST:,} characters ...{text[-half:]}"
        return text

    def _text(self, text: str) -> str:
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, _HIDDEN)
        small = text.lower()
        for hint in _HINTS:
            if hint in small:
                for pattern, instead in _SECRETS:
                    text = pattern.sub(instead, text)
                break
        if self._addresses:
            return text
        if "DETAIL:" in text or "[parameters: " in text:
            text = _DATA.sub(r"\1***", text)
        if "@" in text or "%40" in text:
            text = _WITH_AT.sub(_without_address, _QUOTED.sub(_HIDDEN, text))
        return text


@lru_cache(1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _without_address(found: re.Match[str]) -> str:
    """`ada@example.com` -> `a***@example.com`: whose mail server it is, is what an operator asks."""
    run = found[0]
    at = max(run.rfind("@"), run.rfind("%40"))
    local, domain = run[:at], run[at:]
    before = _ARGUMENT.match(local)
    name = local[before.end() :] if before else local
    if name == "" or local == _HIDDEN or (_OURS.fullmatch(name) and domain == f"@{_HOST}"):
        return run
    return f"{local[: len(local) - len(name)]}{name[0]}***{domain}"


def _spellings(secret: str) -> Iterator[str]:
    """As it is, as a URL or a `repr` has it, and as SMTP and HTTP log in with it."""
    yield secret
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield repr(secret)[1:-1]
    yield b64encode(secret.encode()).decode()


def _secrets_of(settings: Settings) -> Iterator[str]:
    """The values of all settings that are secret, and the passwords in those that are URLs."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, SecretStr):
                yield one.get_secret_value()
            elif isinstance(one, str) and "://" in one and (password := urlsplit(one).password):
                yield password
                yield unquote(password)
    for endpoint in settings.endpoints:
        if endpoint.password is not None:
            yield endpoint.password.get_secret_value()
