"""What was looked for, and why it was not found: the words of a failed assertion."""

from collections.abc import Sequence
from dataclasses import dataclass

from outbox.testing.mail import Mail

_SHOWN = 10
"""Mails named of each kind, the nearest first; the rest is counted."""

_EXCERPT = 60


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a test asks for. What is None does not matter."""

    to: str | None = None
    subject: str | None = None
    containing: str | None = None

    def __str__(self) -> str:
        words = [
            f"to {self.to}" if self.to is not None else "",
            f"with the subject {self.subject!r}" if self.subject is not None else "",
            f"containing {self.containing!r}" if self.containing is not None else "",
        ]
        return " ".join(word for word in ["mail", *words] if word)

    def misses(self, mail: Mail) -> list[str]:
        """What is not as wanted; empty for the mail that is."""
        found: list[str] = []
        if self.to is not None and self.to.lower() != mail.recipient.lower():
            found.append(f"it goes to {mail.recipient}")
        if self.subject is not None and self.subject != mail.subject:
            found.append(f"its subject is {mail.subject!r}")
        if self.containing is not None and self.containing not in f"{mail.text or ''}\n{mail.html or ''}":
            found.append(f"it says {excerpt(mail)}")
        return found

    def among(self, mails: Sequence[Mail]) -> list[Mail]:
        """Those that are as wanted."""
        return [mail for mail in mails if not self.misses(mail)]


def excerpt(mail: Mail) -> str:
    """The beginning of what it says."""
    text = mail.text or mail.html or ""
    return repr(text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 3]}...")


def listed(title: str, lines: Sequence[str]) -> str:
    """`title (2):` and a line for each, or that there is none."""
    if not lines:
        return f"{title}: nothing"
    rest = len(lines) - _SHOWN
    more = [f"... and {rest} more"] if rest > 0 else []
    return "\n".join([f"{title} ({len(lines)}):", *(f"  {line}" for line in [*lines[:_SHOWN], *more])])


def compared(mails: Sequence[Mail], wanted: Wanted) -> list[str]:
    """A line for each mail, with what is not as wanted; the nearest first."""
    nearest = sorted(mails, key=lambda mail: len(wanted.misses(mail)))
    return [f"{named(mail)}{_but(wanted.misses(mail))}" for mail in nearest]


def named(mail: Mail) -> str:
    """Which mail it is."""
    return f"mail {mail.id} to {mail.recipient}, {mail.subject!r}"


def _but(misses: Sequence[str]) -> str:
    return f": {', '.join(misses)}" if misses else ""
