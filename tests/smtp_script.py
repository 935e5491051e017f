"""What can happen to a relay, and what it can be told to do about it: the vocabulary of `smtp_server`'s scripts."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something the client did. `segment` counts the connection's reads: commands of one write share it."""

    verb: str
    argument: str
    connection: int
    segment: int
    tls: bool
    sender: str | None
    recipient: str | None
    at: float  # time.monotonic()


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail that the server took. `data` has its dots undone and its last CRLF; `at` is `time.time()`."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes
    connection: int
    at: float
    parameters: tuple[str, ...] = ()
    """Of MAIL."""

    @property
    def recipient(self) -> str:
        (recipient,) = self.recipients
        return recipient


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer this. A 421 also hangs up, as relays do."""

    code: int
    text: str = "as scripted"


@dataclass(frozen=True, slots=True)
class Raw:
    """Answer these bytes, whatever they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Hang:
    """Never answer again. At DOT with `accept`: the mail is taken all the same."""

    accept: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """Hang up without a word. At DOT with `accept`: the mail is taken all the same."""

    accept: bool = False


@dataclass(frozen=True, slots=True)
class Delay:
    """React after so many seconds; without `then`, in the friendly way.

    At DOT with `accept`: the mail is taken before, and `then` must be Raw, which takes nothing.
    """

    seconds: float
    then: "Reply | Raw | Hang | Drop | Dribble | None" = None
    accept: bool = False


@dataclass(frozen=True, slots=True)
class Dribble:
    """Answer a byte at a time, so many seconds apart; without `then`, in the friendly way."""

    every: float
    then: Reply | None = None


Reaction = Reply | Raw | Hang | Drop | Delay | Dribble
Script = Callable[[Event], Reaction | None]
"""From what happened to what to do about it; None is the friendly answer."""


def on(verb: str, reaction: Reaction, *, times: int | None = None) -> Script:
    """React so to this verb; the first so many times, or always."""
    seen: list[Event] = []

    def script(event: Event) -> Reaction | None:
        if event.verb != verb:
            return None
        seen.append(event)
        return reaction if times is None or len(seen) <= times else None

    return script


_CODES = {"reject": 550, "defer": 451}
_PLAIN: dict[str, Reaction] = {
    "drop": Drop(),
    "swallow": Drop(accept=True),
    "garble": Raw(b"what?\r\n"),
    "hang": Hang(),
}
_WISH = re.compile(
    r"(?P<what>reject|defer|drop|hang|slow|late|swallow|garble|dribble)(?:-(?P<figure>[0-9.]+))?"
    r"(?:-(?P<enhanced>[245][.][0-9]+[.][0-9]+))?(?:-at-(?P<stage>rcpt|data|body|dot))?"
    r"(?:-times-(?P<times>[0-9]+))?(?:[+].*)?"
)


def by_recipient() -> Script:
    """The recipient's local part says what becomes of the mail; anything else is welcome.

    `reject-550`, `defer-451` (at RCPT), `reject-550-5.1.1`, `drop-at-dot`, `swallow-at-dot` (taken, then dropped),
    `hang-at-data`, `garble-at-rcpt`, `slow-1.5-at-dot`, `late-1.5-at-dot` (taken, and said so later),
    `dribble-0.1-at-dot` (a byte every 0.1 s); with `-times-2` only the first two times; `+anything` behind it makes
    addresses distinct.
    """
    seen: Counter[str] = Counter()

    def script(event: Event) -> Reaction | None:
        recipient = event.recipient or ""
        wish = _WISH.fullmatch(recipient.partition("@")[0])
        if wish is None or event.verb != (wish["stage"] or "rcpt").upper():
            return None
        seen[recipient] += 1
        return None if wish["times"] and seen[recipient] > int(wish["times"]) else _granted(wish)

    return script


def _granted(wish: re.Match[str]) -> Reaction:
    figure = wish["figure"]
    what = wish["what"]
    if what in _CODES:
        code = int(figure or _CODES[what])
        return Reply(code, f"{wish['enhanced'] or f'{code // 100}.0.0'} as you wish")
    if what in _PLAIN:
        return _PLAIN[what]
    seconds = float(figure or 1)
    if what == "late":
        return Delay(seconds, Raw(b"250 2.0.0 queued\r\n"), accept=True)
    return Dribble(seconds) if what == "dribble" else Delay(seconds)
