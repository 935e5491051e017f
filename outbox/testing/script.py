"""What a test wants its relay to do. It takes every mail, unless the test says otherwise."""

from dataclasses import dataclass

from outbox.states import Stage


@dataclass(slots=True)
class Rule:
    """What happens at a stage to mail for a recipient, or for everybody (None)."""

    stage: Stage
    recipient: str | None
    reply: str | None
    """None: the relay hangs up."""
    left: int | None
    """Mails that it still happens to. None: to all."""

    def holds(self, stage: Stage, recipient: str) -> bool:
        """Whether it happens to this mail, now."""
        return (
            self.stage is stage
            and self.left != 0
            and (self.recipient is None or self.recipient.lower() == recipient.lower())
        )


class RelayScript:
    """What the relay does. What follows for the mail is decided where it is in production: `outcomes`, `retry`.

    `recipient` is the address that it is done to; without one, it is done to everybody. `times` is for how many mails;
    without it, for all that come. Of two that hold for a mail, the later one counts.
    """

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._down = False

    def refuse(
        self,
        recipient: str | None = None,
        code: int = 550,
        text: str = "5.1.1 no such user",
        *,
        times: int | None = None,
    ) -> None:
        """Refuse the recipient for good. `text` may begin with an enhanced code; 5.1.1 also suppresses the address."""
        self._add(Stage.RCPT, recipient, _reply("refuse", 5, code, text), times)

    def defer(
        self,
        recipient: str | None = None,
        code: int = 451,
        text: str = "4.2.0 try again later",
        *,
        times: int | None = None,
    ) -> None:
        """Refuse the recipient for now: the mail is tried again, later."""
        self._add(Stage.RCPT, recipient, _reply("defer", 4, code, text), times)

    def hang_up_after_dot(self, recipient: str | None = None, *, times: int | None = None) -> None:
        """Read the whole mail and vanish without an answer: nobody knows whether it was taken."""
        self._add(Stage.DOT, recipient, None, times)

    def go_down(self) -> None:
        """Refuse connections."""
        self._down = True

    def come_back(self) -> None:
        """Take connections again. A relay that was down is left alone for a while: `outbox.travel` past that."""
        self._down = False

    @property
    def down(self) -> bool:
        """Whether it refuses connections."""
        return self._down

    def rule(self, stage: Stage, recipient: str) -> Rule | None:
        """What the test wants to happen to this mail now. Asked once for each time that it happens."""
        found = next((rule for rule in reversed(self._rules) if rule.holds(stage, recipient)), None)
        if found is not None and found.left is not None:
            found.left -= 1
        return found

    def _add(self, stage: Stage, recipient: str | None, reply: str | None, times: int | None) -> None:
        if times is not None and times < 1:
            raise ValueError(f"times={times}: give a number of mails from 1, or leave it out for all of them")
        self._rules.append(Rule(stage, recipient, reply, times))


def _reply(verb: str, first: int, code: int, text: str) -> str:
    if code // 100 != first:
        other = {5: "defer", 4: "refuse"}[first]
        raise ValueError(f"{verb}: code={code} is none of {first}xx; for {9 - first}xx use {other}")
    return f"{code} {' '.join(text.split())}"
