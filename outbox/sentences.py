"""Facts about a mail -> the one sentence that tells how it stands. Pure; times are shown in the zone of `now`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from outbox import subscriptions
from outbox.breaker import Standing
from outbox.feedback import Notice
from outbox.states import DeadReason, Feedback, Outcome, RelayState, Stage, Status
from outbox.superseding import COLLAPSED, SUPERSEDED
from outbox.suppressions import Suppression
from outbox.times import told


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The last conversation about a mail."""

    outcome: Outcome
    stage: Stage
    code: int | None
    reply: str
    relay: str
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a sentence is made of: the row, its last attempt, and what stands in the way of all or of this mail."""

    id: int
    status: Status
    now: datetime
    next_attempt_at: datetime
    attempts: int = 0
    max_attempts: int = 5
    scheduled_at: datetime | None = None
    expires_at: datetime | None = None
    finalized_at: datetime | None = None
    dead_reason: DeadReason | None = None
    last_error: str | None = None
    gone: str | None = None
    """Why nothing is left of what it said, if so."""
    relay: str | None = None
    waiting_for: str | None = None
    claimed_by: str | None = None
    lease_expires_at: datetime | None = None
    lease: timedelta = timedelta(minutes=15)
    """What `begin` gives a mail."""
    last: Attempt | None = None
    feedback: Notice | None = None
    """What was told last of it, behind the relay's 250."""
    suppression: Suppression | None = None
    """That holds for its recipient now."""
    relays: Sequence[Standing] = ()
    """Of the settings, in their order."""
    held: str | None = None
    """Why the fence lets nothing through to its recipient, if so."""
    not_ours: str | None = None
    """Why nothing is sent from this database, if so."""


def sentence(facts: Facts) -> str:
    """What the facts come to."""
    return f"Mail {facts.id} {_OF_STATUS[facts.status](facts)}{_feedback(facts)}."


# --- pending


def _pending(facts: Facts) -> str:
    hindrance = _hindrance(facts)
    if hindrance is not None:
        return f"{_when(facts)}, but {hindrance}"
    return f"{_when(facts)}, and waits for a worker" if _is_due(facts) else _when(facts)


def _is_due(facts: Facts) -> bool:
    return facts.next_attempt_at <= facts.now


def _when(facts: Facts) -> str:
    moment = told(facts.next_attempt_at, facts.now)
    if _is_due(facts):
        return f"has been due since {moment}{_before(facts)}"
    if facts.waiting_for:
        return f"is held back until {moment}: {facts.waiting_for}"
    if facts.attempts:
        return f"is waiting for retry {facts.attempts + 1} of {facts.max_attempts} after {_words(facts)} until {moment}"
    if facts.scheduled_at == facts.next_attempt_at:
        return f"is scheduled for {moment}"
    if facts.last is not None:
        return f"waits until {moment} after {_words(facts)}, which counts as no attempt"
    return f"waits until {moment}"


def _before(facts: Facts) -> str:
    """What a mail that is due has been through."""
    if facts.waiting_for:
        return f", was held back until then ({facts.waiting_for})"
    if facts.attempts:
        return f", for retry {facts.attempts + 1} of {facts.max_attempts} after {_words(facts)}"
    return ""


def _hindrance(facts: Facts) -> str | None:
    """What would keep it from going when it is due."""
    if facts.expires_at is not None and facts.expires_at <= max(facts.now, facts.next_attempt_at):
        return f"{_tense(facts)} {told(facts.expires_at, facts.now)} and will not be sent"
    if facts.suppression is not None:
        return f"will not be sent, for {_suppressed_by(facts.suppression, facts.now)}"
    if facts.not_ours is not None:
        return facts.not_ours
    if facts.held not in {None, facts.waiting_for}:
        return f"will be held back: {facts.held}"
    if facts.relay is not None:
        return _bound(facts, facts.relay)
    hindered = [_relay(relay, facts.now) for relay in facts.relays if _refuses(relay, facts)]
    return f"nothing can be sent: {'; '.join(hindered)}" if len(hindered) == len(facts.relays) else None


def _tense(facts: Facts) -> str:
    return "expired at" if facts.expires_at is not None and facts.expires_at <= facts.now else "expires before that, at"


def _bound(facts: Facts, name: str) -> str | None:
    standing = next((relay for relay in facts.relays if relay.name == name), None)
    only = "it may go through no relay but the one that may have had it already"
    if standing is None:
        return (
            f"{only}, {name}, and that is no longer in the settings: put it back, or the mail becomes uncertain when "
            "its turn comes"
        )
    return f"{only}: {_relay(standing, facts.now)}" if _refuses(standing, facts) else None


def _refuses(relay: Standing, facts: Facts) -> bool:
    """Whether the relay takes no mail when this one is due."""
    if relay.available:
        return False
    if _is_due(facts) or relay.state is RelayState.PAUSED:
        return True
    return relay.seconds_left is not None and facts.now + timedelta(seconds=relay.seconds_left) > facts.next_attempt_at


def _relay(relay: Standing, now: datetime) -> str:
    by = f" by {relay.changed_by}" if relay.state is RelayState.PAUSED and relay.changed_by else ""
    said = (
        f"relay {relay.name} "
        f"{f'has been paused since {told(relay.changed_at, now)}' if relay.changed_at else 'is paused'}{by}"
        f"{f' because {_quoted(relay.reason)}' if relay.reason else ''}"
    )
    until = told(now + timedelta(seconds=relay.seconds_left), now) if relay.resting and relay.seconds_left else None
    match relay.state:
        case RelayState.PAUSED:
            return f"{said}, until `outbox resume {relay.name}`"
        case RelayState.HALF_OPEN:
            return f"{said}, and one mail is trying it"
        case RelayState.OPEN:
            settings = ", which a person should mend" if relay.latched else ""
            return f"{said}{settings}, and one mail will try it {f'at {until}' if until else 'with the next drain'}"
        case RelayState.CLOSED:
            return f"{said}, until {until}"


# --- in a worker's hands


def _claimed(facts: Facts) -> str:
    if _lapsed(facts):
        return _abandoned(facts)
    return f"is with worker {facts.claimed_by}, which begins it by {_lease_end(facts)} or gives it back"


def _sending(facts: Facts) -> str:
    if _lapsed(facts):
        return _abandoned(facts)
    assert facts.lease_expires_at is not None
    since = told(min(facts.lease_expires_at - facts.lease, facts.now), facts.now)
    what = f"being sent to relay {facts.relay}" if facts.relay else "being composed"
    return f"is {what} by worker {facts.claimed_by}, which began at {since}"


def _abandoned(facts: Facts) -> str:
    reaper = "the reaper, which beat and `outbox drain` start,"
    if facts.status is Status.CLAIMED:
        then = f"it did not send the mail, and {reaper} puts it back in the queue"
    elif facts.relay is None:
        then = f"it composed the mail and did not send it, and {reaper} decides what follows"
    else:
        then = f"relay {facts.relay} may have sent it, and {reaper} decides what follows"
    return f"was left by worker {facts.claimed_by}, whose lease ended at {_lease_end(facts)}; {then}"


def _lapsed(facts: Facts) -> bool:
    return facts.lease_expires_at is not None and facts.lease_expires_at <= facts.now


def _lease_end(facts: Facts) -> str:
    assert facts.lease_expires_at is not None
    return told(facts.lease_expires_at, facts.now)


# --- over, or for a person to decide


def _sent(facts: Facts) -> str:
    when = _finalized(facts)
    if facts.last is not None and facts.last.outcome is Outcome.SENT:
        return f"was sent at {when} by relay {facts.last.relay}, which said {_words(facts)}"
    return f"has counted as sent since {when}{f': {facts.last_error}' if facts.last_error else ''}"


def _feedback(facts: Facts) -> str:
    """What became of it behind the relay."""
    notice = facts.feedback
    if notice is None:
        return ""
    words = f" with {_quoted(notice.said)}" if notice.said else ""
    told_by = (
        f"; {notice.provider} says that {_OF_FEEDBACK[notice.kind]} at {told(notice.occurred_at, facts.now)}{words}"
    )
    failed = notice.kind in {Feedback.BOUNCED, Feedback.COMPLAINED}
    if not failed or facts.suppression is None or facts.status is not Status.SENT:
        return told_by
    return f"{told_by}, and {facts.suppression.target} is suppressed, until {_lift(facts.suppression)}"


def _cancelled(facts: Facts) -> str:
    when, why = _finalized(facts), facts.last_error or ""
    if why.startswith((SUPERSEDED, COLLAPSED)):
        return f"was cancelled at {when}, {why}"
    after_all = facts.gone or f"`outbox requeue {facts.id}` sends it after all"
    return f"was cancelled at {when}; {after_all}"


def _uncertain(facts: Facts) -> str:
    been = f"has been uncertain since {told(facts.last.finished_at, facts.now)}" if facts.last else "is uncertain"
    relay = facts.relay or (facts.last.relay if facts.last else None)
    who = f"relay {relay}" if relay else "the relay"
    return (
        f"{been}: {who} may have sent it ({_words(facts)}); look for its Message-ID (`outbox show {facts.id}`) in the "
        f"log of that relay, then `outbox resolve {facts.id} sent|requeue|dead`"
    )


def _dead(facts: Facts) -> str:
    assert facts.dead_reason is not None
    return f"has been dead since {_finalized(facts)}: {_OF_DEATH[facts.dead_reason](facts)}"


def _rejected(facts: Facts) -> str:
    relay = f"relay {facts.last.relay}" if facts.last else "the relay"
    refused = f"{relay} refused it for good with {_words(facts)}"
    if facts.suppression is None:
        return refused
    return f"{refused}; {facts.suppression.target} is suppressed, until {_lift(facts.suppression)}"


def _exhausted(facts: Facts) -> str:
    if facts.last is None or not _is_of(facts.last, facts.last_error):
        return f"{facts.last_error or 'no attempt is left'}; {_again(facts)}"
    if facts.attempts >= facts.max_attempts:
        return f"all of its {facts.max_attempts} attempts failed, the last with {_words(facts)}; {_again(facts)}"
    return f"it had grown too old for another attempt after {_words(facts)}; {_again(facts)}"


def _expired(facts: Facts) -> str:
    if facts.expires_at is None:
        return "it expired unsent"
    moment = told(facts.expires_at, facts.now)
    if facts.last is None or not _is_of(facts.last, facts.last_error):
        return f"it expired at {moment} unsent"
    verb = "expires" if facts.expires_at > facts.now else "expired"
    return f"it {verb} at {moment}, before it could be tried again after {_words(facts)}"


def _suppressed(facts: Facts) -> str:
    if facts.suppression is None:
        why = f" because {_quoted(facts.last_error)}" if facts.last_error else ""
        return f"its recipient was suppressed then{why} and is not any more; {_again(facts)}"
    then = f"; {facts.gone}" if facts.gone else f", then `outbox requeue {facts.id}`"
    return f"{_suppressed_by(facts.suppression, facts.now)}; {_lift(facts.suppression)} lifts that{then}"


def _invalid(facts: Facts) -> str:
    last = facts.last
    if last is None or not _is_of(last, facts.last_error):
        return f"it cannot be sent as a message ({facts.last_error})"
    if last.stage is Stage.COMPOSE:
        return f"its workers died while they composed it, last with {_quoted(last.reply)}"
    if last.code is None:
        return f"it was not offered to relay {last.relay}: {last.reply}"
    return f"relay {last.relay} does not take such a message and said {_words(facts)}"


def _lift(suppression: Suppression) -> str:
    category = f" --category {suppression.category}" if suppression.category else ""
    return f"`outbox suppress --remove {suppression.target}{category}`"


def _suppressed_by(suppression: Suppression, now: datetime) -> str:
    category = suppression.category
    since = told(suppression.created_at, now)
    if category and suppression.reason == subscriptions.reason(category):
        return f"{suppression.target} {suppression.reason} at {since}, by {suppression.source}"
    until = "for good" if suppression.until is None else f"until {told(suppression.until, now)}"
    return (
        f"{suppression.target} has been suppressed{f' for {category!r}' if category else ''} since {since} {until} "
        f"by {suppression.source} because {_quoted(suppression.reason)}"
    )


def _again(facts: Facts) -> str:
    return facts.gone or f"`outbox requeue {facts.id}` tries again"


def _finalized(facts: Facts) -> str:
    assert facts.finalized_at is not None
    return told(facts.finalized_at, facts.now)


def _words(facts: Facts) -> str:
    """The last words about the mail: the relay's, with their code, or ours."""
    last = facts.last
    if last is None or not (_is_of(last, facts.last_error) or last.outcome is Outcome.SENT):
        return _quoted(facts.last_error or "no answer")
    return _quoted(f"{last.code} {last.reply}" if last.code is not None else f"{last.stage}: {last.reply}")


def _is_of(last: Attempt, error: str | None) -> bool:
    """Whether that conversation left this error, and not what came after it."""
    return error == f"{last.stage}: {last.reply}"


def _quoted(text: str) -> str:
    return f'"{text}"'


_OF_STATUS: dict[Status, Callable[[Facts], str]] = {
    Status.PENDING: _pending,
    Status.CLAIMED: _claimed,
    Status.SENDING: _sending,
    Status.SENT: _sent,
    Status.DEAD: _dead,
    Status.UNCERTAIN: _uncertain,
    Status.CANCELLED: _cancelled,
}

_OF_FEEDBACK: dict[Feedback, str] = {
    Feedback.DELIVERED: "it was delivered",
    Feedback.DELAYED: "it was delayed",
    Feedback.BOUNCED: "it bounced for good",
    Feedback.SOFT_BOUNCED: "it came back, though the address may be right,",
    Feedback.COMPLAINED: "its recipient called it spam",
}

_OF_DEATH: dict[DeadReason, Callable[[Facts], str]] = {
    DeadReason.REJECTED: _rejected,
    DeadReason.EXHAUSTED: _exhausted,
    DeadReason.EXPIRED: _expired,
    DeadReason.SUPPRESSED: _suppressed,
    DeadReason.INVALID: _invalid,
}
