"""A reader of mail that forgives nothing: what the RFCs do not allow to be written is an error, not a guess.

It is written from RFC 5322, 2045 to 2047, 2183, 2231 and 6532, and shares nothing with the composer. It knows no
obsolete syntax, no comments and no groups: Outbox writes none, so whoever got one in has forged it.
"""

import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from quopri import decodestring
from urllib.parse import unquote_to_bytes

_FIELD = re.compile(r"([!-9;-~]+): ?(.*)", re.DOTALL)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_UTF8_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+"  # RFC 6532, 3.2
_QUOTED = r'"(?:[^"\\\r\n]|\\[ -~])*"'
_TOKEN = r"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]+"  # RFC 2045, 5.1
_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"  # LDH labels: IDNA's wire form
_ADDRESS = re.compile(rf"{_UTF8_ATOM}(?:\.{_UTF8_ATOM})*@{_DOMAIN}")
_MAILBOX = re.compile(
    rf"(?:(?P<name>(?:{_ATOM}|{_QUOTED})(?: (?:{_ATOM}|{_QUOTED}))*) <(?P<named>[^<>]*)>|(?P<bare>[^<>,\" ]+))"
)
_ENCODED_WORD = re.compile(r"=\?utf-8\?b\?([A-Za-z0-9+/]+={0,2})\?=")
_LOOKS_ENCODED = re.compile(r"=\?[^?]*\?[bq]\?", re.IGNORECASE)
_PARAMETER = re.compile(rf"; ?({_TOKEN})=({_TOKEN}|{_QUOTED})")
_MESSAGE_ID = re.compile(rf"<{_ATOM}(?:\.{_ATOM})*(?:@{_ATOM}(?:\.{_ATOM})*)?>")
_QP_LINE = re.compile(rb"(?:[!-<>-~ \t]|=[0-9A-F]{2})*=?")
_LONGEST_LINE = 998
_ADDRESSED = ("From", "To", "Cc", "Reply-To")


class NotAMail(AssertionError):
    """Something is written as no RFC allows it."""


@dataclass
class Part:
    """A leaf of the tree."""

    type: str
    parameters: dict[str, str]
    disposition: str | None
    filename: str | None
    content_id: str | None
    data: bytes


@dataclass
class Read:
    """A mail, as a strict reader finds it."""

    names: list[str]
    headers: dict[str, str]
    """Decoded; those with addresses are in `mailboxes`."""
    mailboxes: dict[str, list[tuple[str, str]]]
    tree: object
    parts: list[Part] = field(default_factory=list)


def read(raw: bytes) -> Read:
    """Raises NotAMail."""
    _check_lines(raw)
    head, body = _split(raw)
    fields = _fields(head)
    names = [name for name, _ in fields]
    _must(len({name.lower() for name in names}) == len(names), "a header is there twice", names)
    found = Read(names, {}, {}, None)
    mime: dict[str, str] = {}
    for name, value in fields:
        if name in _ADDRESSED:
            found.mailboxes[name] = _mailboxes(value)
            continue
        _must(value.isascii(), "a header that holds no address is not ASCII", value)
        if name.lower().startswith("content-"):
            mime[name.lower()] = value
        else:
            found.headers[name] = _decoded(value)
    found.tree = _part(mime, body, found.parts)
    return found


def _must(holds: object, what: str, where: object) -> None:
    if not holds:
        raise NotAMail(f"{what}: {where!a:.300}")


def _check_lines(raw: bytes) -> None:
    _must(raw.count(b"\r") == raw.count(b"\n") == raw.count(b"\r\n"), "a CR or LF by itself in", raw)
    _must(raw.endswith(b"\r\n"), "a last line without end in", raw[-100:])
    _must(max(map(len, raw.split(b"\r\n"))) <= _LONGEST_LINE, "an endless line in", raw)
    _must(not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", raw), "a control character in", raw)


def _split(raw: bytes) -> tuple[str, bytes]:
    head, blank, body = raw.partition(b"\r\n\r\n")
    _must(blank, "no blank line behind the headers of", raw)
    try:
        return head.decode(), body
    except UnicodeDecodeError as error:
        raise NotAMail(f"headers that are not UTF-8: {head!r}") from error


def _fields(head: str) -> list[tuple[str, str]]:
    lines = head.split("\r\n")
    _must(not lines[0].startswith((" ", "\t")), "a fold in front of", lines[0])
    fields: list[str] = []
    for line in lines:
        _must(line.strip(" \t"), "a line of blanks among headers", head)
        _must("=?" not in line or len(line) <= 78, "a line too long for its encoded words", line)
        if line.startswith((" ", "\t")):
            fields[-1] += line
        else:
            fields.append(line)
    matches = [_FIELD.fullmatch(line) for line in fields]
    _must(all(matches), "not a header", fields)
    return [(match[1], match[2]) for match in matches if match]


def _decoded(text: str) -> str:
    """RFC 2047, 6.2: the blanks between two encoded words are no part of the text."""
    text = re.sub(r"(?<=\?=)[ \t]+(?==\?utf-8\?b\?)", "", text)
    if "=?utf-8?b?" in text:
        _must(not _ENCODED_WORD.sub("", text), "encoded words among others", text)
        _must(all(len(word) <= 75 for word in re.split(r"(?<=\?=)", text)), "a long encoded word", text)
        return "".join(_word(match[1]) for match in _ENCODED_WORD.finditer(text))
    _must(not _LOOKS_ENCODED.search(text), "text that readers decode", text)
    return text


def _word(encoded: str) -> str:
    try:
        return b64decode(encoded, validate=True).decode()
    except ValueError as error:
        raise NotAMail(f"an encoded word that is none, or cuts a character: {encoded}") from error


def _mailboxes(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    position = 0
    while True:
        match = _MAILBOX.match(text, position)
        _must(match, "no mailbox at the start of", text[position:])
        assert match is not None
        address = match["named"] if match["name"] else match["bare"]
        _must(_ADDRESS.fullmatch(address), "no address", address)
        found.append((_phrase(match["name"] or ""), address))
        position = match.end()
        if position == len(text):
            return found
        _must(text.startswith(", ", position), "no comma between mailboxes", text[position:])
        position += 2


def _phrase(name: str) -> str:
    if name.startswith('"'):
        _must(re.fullmatch(_QUOTED, name), "more than a quotation", name)
        _must(not _LOOKS_ENCODED.search(name), "a name that readers decode", name)
        return re.sub(r"\\(.)", r"\1", name[1:-1])
    return _decoded(name)


def parameters_of(text: str) -> tuple[str, dict[str, str]]:
    """`value; name=value`, with RFC 2231's continuations put together."""
    value = re.match(r"[^;]*", text)
    assert value is not None
    given: dict[str, str] = {}
    position = value.end()
    while position < len(text):
        match = _PARAMETER.match(text, position)
        _must(match, "no parameter", text[position:])
        assert match is not None
        name = match[1].lower()
        _must(name not in given, "a parameter that is there twice", text)
        quoted = match[2].startswith('"')
        given[name] = re.sub(r"\\(.)", r"\1", match[2][1:-1]) if quoted else match[2]
        position = match.end()
    return value[0], _put_together(given)


def _put_together(given: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    pieces: dict[str, list[str]] = {}
    for name, value in given.items():
        base, *rest = name.split("*")
        if rest in ([], [""]):
            _must(base not in found, "a parameter in two forms", given)
            found[base] = _extended(value) if rest else value
        else:
            _must(rest == [str(len(pieces.setdefault(base, []))), ""], "pieces out of order", name)
            pieces[base].append(value)
    _must(not found.keys() & pieces.keys(), "a parameter in two forms", given)
    return found | {base: _extended("".join(values)) for base, values in pieces.items()}


def _extended(value: str) -> str:
    _must(value.startswith("utf-8''"), "no charset", value)
    return unquote_to_bytes(value.removeprefix("utf-8''")).decode()


def _part(mime: dict[str, str], body: bytes, parts: list[Part]) -> object:
    kind, parameters = parameters_of(mime["content-type"])
    _must(re.fullmatch(rf"{_TOKEN}/{_TOKEN}", kind), "no media type", kind)
    if kind.startswith("multipart/"):
        return (kind, *(_entity(piece, parts) for piece in _pieces(body, parameters["boundary"])))
    disposition, details = parameters_of(mime["content-disposition"]) if "content-disposition" in mime else (None, {})
    content_id = mime.get("content-id")
    _must(content_id is None or _MESSAGE_ID.fullmatch(content_id), "no content id", content_id)
    data = _content(body, mime["content-transfer-encoding"])
    inside = content_id[1:-1] if content_id else None
    parts.append(Part(kind, parameters, disposition, details.get("filename"), inside, data))
    return kind


def _entity(raw: bytes, parts: list[Part]) -> object:
    head, body = _split(raw)
    _must(head.isascii(), "headers of a part that are not ASCII", head)
    fields = _fields(head)
    mime = {name.lower(): value for name, value in fields}
    _must(len(mime) == len(fields), "a header of a part is there twice", fields)
    allowed = {"content-type", "content-transfer-encoding", "content-disposition", "content-id"}
    _must(mime.keys() <= allowed, "a strange header of a part", fields)
    return _part(mime, body, parts)


def _pieces(body: bytes, boundary: str) -> Sequence[bytes]:
    """RFC 2046, 5.1.1; nothing before the first piece, nothing behind the last."""
    delimiter = f"\r\n--{boundary}".encode()
    before, *pieces, behind = (b"\r\n" + body).split(delimiter)
    _must(before == b"", "something before the first part", before)
    _must(behind == b"--\r\n", "something behind the last part", behind)
    _must(all(piece.startswith(b"\r\n") for piece in pieces), "a boundary with more behind it", pieces)
    return [piece[2:] for piece in pieces]


def _content(body: bytes, encoding: str) -> bytes:
    lines = body.split(b"\r\n")
    _must(encoding in {"base64", "quoted-printable"}, "an encoding that is not used", encoding)
    _must(all(len(line) <= 76 for line in lines), "a line of a body that is too long", body)
    if encoding == "base64":
        return b64decode(b"".join(lines), validate=True)
    for line in lines:
        _must(_QP_LINE.fullmatch(line) and not line.endswith((b" ", b"\t")), "not quoted-printable", line)
    return decodestring(body)
