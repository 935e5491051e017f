"""What a relay's answers mean: the whole table, read from the top; the first row that fits holds.

A reply is known by the stage it came at, its basic code (RFC 5321, 4.2), its enhanced status code (RFC 3463) and its
words. Codes come before words where both say the same; words are looked at where relays differ in their codes: "slow
down" is 421 4.7.0 at Postfix, 454 at Amazon SES, 451 4.7.500 at Exchange, and no enhanced code at all at Exim.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from outbox.states import DeadReason, Outcome, Stage


class Broken(StrEnum):
    """What came in place of an answer."""

    LOST = "lost"  # refused, not found, timed out, hung up, or not SMTP: whatever is not below
    UNTRUSTED = "untrusted"  # a certificate that does not prove who the relay is
    NOT_OFFERED = "not offered"  # STARTTLS, a way to log in that we know, or SMTPUTF8


@dataclass(frozen=True, slots=True)
class Says:
    """A reply whose basic code fits and, where they are given, its enhanced code or its words fit, too.

    Regular expressions. `enhanced` is held against the whole code, "" if there is none; `words` may stand anywhere,
    in any case, in any line; addresses are left out, for nobody's name is a reason.
    """

    code: str
    enhanced: str | None = None
    words: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. What follows from an outcome is `retry`'s and the breaker's."""

    name: str
    at: frozenset[Stage]
    when: Says | Broken
    outcome: Outcome
    dead_reason: DeadReason = DeadReason.REJECTED
    """Why a rejected mail is dead."""
    suppress: bool = False
    """There is no such recipient: nothing should be sent there any more."""
    sender_refused: bool = False
    """It is the sender that the relay does not like. Once may be chance; mail after mail, it is our settings."""


_CONNECT, _TLS, _AUTH = frozenset({Stage.CONNECT}), frozenset({Stage.TLS}), frozenset({Stage.AUTH})
_MAIL, _RCPT, _DATA = frozenset({Stage.MAIL}), frozenset({Stage.RCPT}), frozenset({Stage.DATA})
_DOT = frozenset({Stage.DOT})

REACHING = _CONNECT | _TLS | _AUTH
"""No mail has been named yet."""

_ENVELOPE = _MAIL | _RCPT | _DATA
_BEFORE_THE_DOT = REACHING | _ENVELOPE
_ON_A_MAIL = _ENVELOPE | _DOT
_BEHIND_MAIL = _RCPT | _DATA | _DOT

STAGES = _BEFORE_THE_DOT | _DOT
"""Where a relay can answer. `compose` is no conversation."""

_QUOTA = r"\b(daily|hourly|sending) .{0,40}\b(limit|quota)"
_TOO_MUCH = (
    r"\btoo (many|much|fast|quickly)\b|\brates?\b|\brate.?limit|throttl|slow down|\bserver( is)?( too)? busy"
    r"|\b(excessive|unexpected|unusual) volume|\b(connections?|messages?|recipients?) limit"
    rf"|{_QUOTA}"
)
_SENDER = r"\bsender( address)? (rejected|refused|denied|not allowed)"

TABLE = (
    Row("sent", _DOT, Says("2.."), Outcome.SENT),
    #
    # Our settings and the relay disagree. Every mail would meet the same, so none must pay for it, and nothing is ever
    # sent in clear text instead.
    #
    Row("certificate untrusted", _TLS, Broken.UNTRUSTED, Outcome.RELAY_MISCONFIGURED),
    Row("STARTTLS not offered", _TLS, Broken.NOT_OFFERED, Outcome.RELAY_MISCONFIGURED),
    Row("STARTTLS refused", _TLS, Says("5.."), Outcome.RELAY_MISCONFIGURED),
    Row("login not offered", _AUTH, Broken.NOT_OFFERED, Outcome.RELAY_MISCONFIGURED),
    Row("login refused", _AUTH, Says("5.."), Outcome.RELAY_MISCONFIGURED),
    # RFC 4954, 6 and RFC 3207, 4: log in, or encrypt, first. Behind MAIL it is about the recipient.
    Row("login required", _MAIL, Says("530"), Outcome.RELAY_MISCONFIGURED),
    #
    # The relay wants less of us. Greylisting does not: it wants this one mail later, and says so with the code that
    # others use for a limit. So it is known by its name, then a limit by its words, and only then the code decides.
    #
    Row("greylisted by name", _ON_A_MAIL, Says("45.", words=r"gr[ae]y.?list"), Outcome.DEFERRED),
    # RFC 5321, 4.5.3.1.10: a limit of the relay, with either code. We name one recipient: it counts those of others.
    Row(
        "too many recipients",
        _RCPT | _DATA,
        Says("[45]..", enhanced=r"[45]\.5\.3", words=r"too many recipients"),
        Outcome.THROTTLED,
    ),
    # A day's quota that is used up comes as a permanent error of a mail that can go tomorrow: 5.4.5 at Gmail, 5.1.90
    # at Exchange Online. 552 is left out: its limits are those of a size.
    Row(
        "quota used up",
        _ON_A_MAIL,
        Says("5(?!52)..", enhanced=r"5\.4\.5|5\.1\.90", words=_QUOTA),
        Outcome.THROTTLED,
    ),
    Row("too much", STAGES, Says("4..", words=_TOO_MUCH), Outcome.THROTTLED),
    Row("login or TLS not now", _TLS | _AUTH, Says("454"), Outcome.THROTTLED),
    Row("greylisted by code", _ON_A_MAIL, Says("45[01]", enhanced=r"4\.7\.1"), Outcome.DEFERRED),
    # Policy, in a temporary mood. After the dot it is about what this mail says, and has to count.
    Row("policy", _BEFORE_THE_DOT, Says("4..", enhanced=r"4\.7\.\d+"), Outcome.THROTTLED),
    Row("full or not accepting", _BEFORE_THE_DOT, Says("4(?!21)..", enhanced=r"4\.3\.[12]"), Outcome.THROTTLED),
    # After the dot it counts: a mail that makes the relay's filter crash would close every connection, for ever.
    Row("closing", _BEFORE_THE_DOT, Says("421"), Outcome.RELAY_DOWN),
    #
    # The mail's own fate.
    #
    Row(
        "too large",
        _ON_A_MAIL,
        Says("5..", enhanced=r"5\.3\.4|5\.2\.3"),
        Outcome.REJECTED,
        dead_reason=DeadReason.INVALID,
    ),
    # RFC 1870. At RCPT, or with 5.2.2, 552 is a full mailbox.
    Row(
        "too large, without a code",
        _MAIL | _DATA | _DOT,
        Says("552", enhanced=r"|5\.0\.0"),
        Outcome.REJECTED,
        dead_reason=DeadReason.INVALID,
    ),
    # RFC 6531, 3.2: then it must not be sent. Waiting changes no relay, and there is no ASCII form to fall back to.
    Row("SMTPUTF8 not offered", _MAIL, Broken.NOT_OFFERED, Outcome.REJECTED, dead_reason=DeadReason.INVALID),
    Row("sender refused", _MAIL, Says("5.."), Outcome.REJECTED, sender_refused=True),
    # Postfix keeps it back until RCPT (smtpd_delay_reject). RFC 3463: 5.1.7 and 5.1.8 are the sender's address.
    Row(
        "sender refused later",
        _BEHIND_MAIL,
        Says("5..", enhanced=r"5\.1\.[78]", words=_SENDER),
        Outcome.REJECTED,
        sender_refused=True,
    ),
    # RFC 3463, 3.2: the recipient's address is at fault. 5.1.5 would be a valid one.
    Row(
        "no such recipient",
        _BEHIND_MAIL,
        Says("5..", enhanced=r"5\.1\.(?!5$)\d+"),
        Outcome.REJECTED,
        suppress=True,
    ),
    Row("rejected", _BEHIND_MAIL, Says("5.."), Outcome.REJECTED),
    Row("deferred", _ON_A_MAIL, Says("4.."), Outcome.DEFERRED),
    #
    # Nobody there who would take a mail, or gone.
    #
    Row("unwilling", REACHING, Says("[45].."), Outcome.RELAY_DOWN),
    Row("unreachable", REACHING, Broken.LOST, Outcome.RELAY_DOWN),
    Row("lost before the dot", _ENVELOPE, Broken.LOST, Outcome.DEFERRED),
    Row("lost after the dot", _DOT, Broken.LOST, Outcome.UNCERTAIN),
)

CLOSING = 421
"""The relay hangs up behind this reply, whatever it means (RFC 5321, 3.8)."""

_SUCCESS = 2
_REFUSALS = (4, 5)

# Some relays set a # before it, and with several lines it stands in each (RFC 2034, 4).
_ENHANCED = re.compile(r"^\s*#?([245]\.\d{1,3}\.\d{1,3})(?![\d.])", re.MULTILINE)


def of_reply(stage: Stage, code: int, text: str) -> Row:
    """The meaning of the reply that decided a conversation: a refusal, or what followed the dot.

    A code of any other class answers something that we did not ask: that is as good as a lost connection.
    """
    if not (code // 100 in _REFUSALS or (stage is Stage.DOT and code // 100 == _SUCCESS)):
        return of_break(stage, Broken.LOST)
    return next(
        row for row in TABLE if isinstance(row.when, Says) and stage in row.at and _fits(row.when, str(code), text)
    )


def of_break(stage: Stage, broken: Broken) -> Row:
    """The meaning of a conversation that ended without a reply."""
    return next(row for row in TABLE if row.when in (broken, Broken.LOST) and stage in row.at)


def _fits(when: Says, code: str, text: str) -> bool:
    if not re.fullmatch(when.code, code):
        return False
    if when.enhanced is when.words is None:
        return True
    return (when.enhanced is not None and re.fullmatch(when.enhanced, _enhanced(text)) is not None) or (
        when.words is not None and re.search(when.words, _words(text), re.IGNORECASE) is not None
    )


def _enhanced(text: str) -> str:
    found = _ENHANCED.match(text)
    return found[1] if found else ""


def _words(text: str) -> str:
    """All lines as one, without their codes and without addresses."""
    return " ".join(word for word in _ENHANCED.sub(" ", text).split() if "@" not in word)
