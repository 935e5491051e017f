"""What a test asked for, and what there is instead: the words of a failed assertion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from outbox.testing.mail import Mail

_SHOWN = 10
"""Mails named of each kind, the nearest first; the rest is counted."""

_EXCERPT = 60
"""Characters of a mail's text."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a test asks for. What is None does not matter."""

    to: str | None = None
    subject: str | None = None
    containing: str | None = None

    def __str__(self) -> str:
        words = [
            f" to {self.to}" if self.to is not None else "",
            f" with the subject {self.subject!r}" if self.subject is not None else "",
            f" that contains {self.containing!r}" if self.containing is not None else "",
        ]
        return "".join(words)

    def fits(self, mail: Mail) -> bool:
        """Whether it is as asked for. Letter case of an address does not matter."""
        return self._missed(mail) == 0

    def lines(self, mails: Sequence[Mail], standing: Mapping[int, str] | None = None) -> list[str]:
        """A line for each, the nearest first, with how it stands."""
        return [self._line(mail, standing or {}) for mail in sorted(mails, key=self._missed)]

    def _missed(self, mail: Mail) -> int:
        to = self.to is not None and self.to.lower() != mail.recipient.lower()
        subject = self.subject is not None and self.subject != mail.subject
        return to + subject + (not self._contained(mail))

    def _contained(self, mail: Mail) -> bool:
        return self.containing is None or any(self.containing in body for body in (mail.text, mail.html) if body)

    def _line(self, mail: Mail, standing: Mapping[int, str]) -> str:
        says = "" if self._contained(mail) else f", which says {_excerpt(mail)}"
        return f"to {mail.recipient}, {mail.subject!r}{says}" + (f". {standing[mail.id]}" if standing else "")


class Rest(NamedTuple):
    """What `sent` does not show: how each mail of the queue stands, what is due, and what will not go at all."""

    standing: Mapping[int, str]
    due: set[int]
    ended: Sequence[str]


def told(what: str, wanted: Wanted, sent: Sequence[Mail], queued: Sequence[Mail], rest: Rest) -> str:
    """The whole message."""
    parts = [
        what,
        _listed("Sent", wanted.lines(sent)),
        _listed("Queued", wanted.lines(queued, rest.standing)),
        _listed("Ended unsent", rest.ended) if rest.ended else "",
        _hint([mail for mail in queued if wanted.fits(mail)], rest.due) if not any(map(wanted.fits, sent)) else "",
    ]
    return "\n".join(filter(None, parts))


def _listed(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return f"{title}: nothing."
    left = len(lines) - _SHOWN
    more = [f"  and {left} more"] if left > 0 else []
    return "\n".join([f"{title}, {len(lines)}:", *(f"  {line}" for line in lines[:_SHOWN]), *more])


def _hint(fitting: Sequence[Mail], due: set[int]) -> str:
    """What a test that asked for one of these has left out."""
    if any(mail.id in due for mail in fitting):
        return "It is queued and due: outbox.deliver() tries it."
    return "It is queued for later: outbox.travel(...) past that time, then outbox.deliver()." if fitting else ""


def _excerpt(mail: Mail) -> str:
    text = mail.text or mail.html or ""
    return repr(text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 3]}...")
