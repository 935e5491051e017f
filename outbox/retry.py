"""What comes next for a mail: a pure function of what happened, what is left, and the time.

It knows no database and no relay. The defaults: 60 s doubling, at most 1 h, each +-20 %, 5 attempts, 72 h.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

from tenacity import RetryCallState, Retrying, wait_exponential

from outbox.settings import Settings
from outbox.states import DeadReason, OnUncertain, Outcome, Status

SPREAD = 0.2
"""Waits differ by up to this fraction either way, so that mails deferred together do not come back together."""

RESENDS = 2
"""A mail that may already have been delivered is sent again at most this often, then a person must look."""

MOST_COMPOSITIONS = 2
"""A mail that was alone in its worker's hands, being composed, when that died, this often, is given up. Its first death
brought it under suspicion, and with it all that the worker had claimed: it ends with the third claim."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's settings. All in seconds."""

    base: float
    cap: float
    max_age: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As set by `OUTBOX_RETRY_BASE_SECONDS`, `OUTBOX_RETRY_MAX_SECONDS` and `OUTBOX_MAX_AGE_HOURS`."""
        return cls(
            base=settings.outbox_retry_base_seconds,
            cap=settings.outbox_retry_max_seconds,
            max_age=settings.outbox_max_age_hours * 3600,
        )


class Standing(NamedTuple):
    """What a mail has been through before this conversation. Times in seconds."""

    attempts: int
    max_attempts: int
    on_uncertain: OnUncertain
    resends: int  # conversations that were lost after the dot
    deaths: int  # claims that ended without a conversation: a worker died, or Redis forgot a task
    age: float  # since it was first due
    expires_in: float | None


class Verdict(NamedTuple):
    """What becomes of the row. `delay` is in seconds, of meaning for `pending`."""

    status: Status
    counted: bool = True
    delay: float = 0
    dead_reason: DeadReason | None = None


def decide(
    outcome: Outcome,
    standing: Standing,
    policy: Policy,
    spread: float,
    dead_reason: DeadReason = DeadReason.REJECTED,
) -> Verdict:
    """The row's next state. `spread`: a random number between -1 and 1, drawn by the caller.

    `dead_reason` is what a rejected mail died of.
    """
    match outcome:
        case Outcome.SENT:
            return Verdict(Status.SENT)
        case Outcome.REJECTED:
            return Verdict(Status.DEAD, dead_reason=dead_reason)
        case Outcome.THROTTLED if standing.age > policy.max_age:
            # Not counted, so this alone ends a mail that a relay finds too many for ever.
            return Verdict(Status.DEAD, dead_reason=DeadReason.EXHAUSTED)
        case Outcome.RELAY_DOWN | Outcome.RELAY_MISCONFIGURED | Outcome.THROTTLED:
            return Verdict(Status.PENDING, counted=False, delay=policy.base)
        case Outcome.DEFERRED:
            return _again(standing, policy, spread)
        case Outcome.UNCERTAIN:
            return _once_more(standing, policy, spread)


def after_death(standing: Standing, compositions: int, policy: Policy, spread: float) -> Verdict:
    """For a mail that was only being composed when its worker died: certainly unsent, and perhaps what it died of.

    `compositions`: how often that happened before.
    """
    if compositions + 1 >= MOST_COMPOSITIONS:
        return Verdict(Status.DEAD, dead_reason=DeadReason.INVALID)
    return _again(standing, policy, spread)


def backoff(attempt: int, policy: Policy, spread: float) -> float:
    """Seconds to wait after the given attempt (the first is 1) failed."""
    state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    return wait_exponential(multiplier=policy.base, max=policy.cap)(state) * (1 + SPREAD * spread)


def _once_more(standing: Standing, policy: Policy, spread: float) -> Verdict:
    if standing.on_uncertain is OnUncertain.HOLD or standing.resends >= RESENDS:
        return Verdict(Status.UNCERTAIN)
    again = _again(standing, policy, spread)
    # It may have arrived: nobody can call it dead, and no more tries are allowed.
    return again if again.status is Status.PENDING else Verdict(Status.UNCERTAIN)


def _again(standing: Standing, policy: Policy, spread: float) -> Verdict:
    attempts = standing.attempts + 1
    delay = backoff(attempts, policy, spread)
    if standing.expires_in is not None and delay >= standing.expires_in:
        return Verdict(Status.DEAD, dead_reason=DeadReason.EXPIRED)
    if attempts >= standing.max_attempts or standing.age + delay > policy.max_age:
        return Verdict(Status.DEAD, dead_reason=DeadReason.EXHAUSTED)
    return Verdict(Status.PENDING, delay=delay)
