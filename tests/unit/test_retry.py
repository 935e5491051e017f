"""What comes next for a mail: every outcome against every standing, and what must hold whatever the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.retry import MOST_COMPOSITIONS, RESENDS, SPREAD, Policy, Standing, Verdict, after_death, backoff, decide
from outbox.settings import Settings
from outbox.states import DeadReason, OnUncertain, Outcome, Status

POLICY = Policy(base=60, cap=3600, max_age=72 * 3600)
FRESH = Standing(
    attempts=0, max_attempts=5, on_uncertain=OnUncertain.RETRY, resends=0, deaths=0, age=1, expires_in=None
)

AGAIN = Verdict(Status.PENDING, delay=60)
SENT = Verdict(Status.SENT)
UNCERTAIN = Verdict(Status.UNCERTAIN)
REJECTED = Verdict(Status.DEAD, dead_reason=DeadReason.REJECTED)
EXHAUSTED = Verdict(Status.DEAD, dead_reason=DeadReason.EXHAUSTED)
EXPIRED = Verdict(Status.DEAD, dead_reason=DeadReason.EXPIRED)
NOT_COUNTED = Verdict(Status.PENDING, counted=False, delay=60)

RELAYS_TROUBLE = {Outcome.RELAY_DOWN, Outcome.RELAY_MISCONFIGURED, Outcome.THROTTLED}

LAST_ATTEMPT = FRESH._replace(attempts=4, max_attempts=5)
STANDINGS = {
    "fresh": FRESH,
    "held": FRESH._replace(on_uncertain=OnUncertain.HOLD),
    "last attempt": LAST_ATTEMPT,
    "only attempt": FRESH._replace(max_attempts=1),
    "resent as often as allowed": FRESH._replace(resends=RESENDS),
    "as old as allowed": FRESH._replace(age=POLICY.max_age),
    "too old": FRESH._replace(age=POLICY.max_age + 1),
    "expires before the next attempt": FRESH._replace(expires_in=60),
    "expired": FRESH._replace(expires_in=-1),
    "expires just after the next attempt": FRESH._replace(expires_in=60.1),
}
VERDICTS = {
    # standing: what follows on (deferred, uncertain, throttled); the other outcomes do not ask
    "fresh": (AGAIN, AGAIN, NOT_COUNTED),
    "held": (AGAIN, UNCERTAIN, NOT_COUNTED),
    "last attempt": (EXHAUSTED, UNCERTAIN, NOT_COUNTED),
    "only attempt": (EXHAUSTED, UNCERTAIN, NOT_COUNTED),
    "resent as often as allowed": (AGAIN, UNCERTAIN, NOT_COUNTED),
    "as old as allowed": (EXHAUSTED, UNCERTAIN, NOT_COUNTED),
    "too old": (EXHAUSTED, UNCERTAIN, EXHAUSTED),
    "expires before the next attempt": (EXPIRED, UNCERTAIN, NOT_COUNTED),
    "expired": (EXPIRED, UNCERTAIN, NOT_COUNTED),
    "expires just after the next attempt": (AGAIN, AGAIN, NOT_COUNTED),
}


@pytest.mark.parametrize("name", STANDINGS)
def test_what_follows(name: str) -> None:
    standing = STANDINGS[name]
    deferred, uncertain, throttled = VERDICTS[name]
    expected = {
        Outcome.SENT: SENT,
        Outcome.REJECTED: REJECTED,
        Outcome.RELAY_DOWN: NOT_COUNTED,
        Outcome.RELAY_MISCONFIGURED: NOT_COUNTED,
        Outcome.THROTTLED: throttled,
        Outcome.DEFERRED: deferred,
        Outcome.UNCERTAIN: uncertain,
    }
    assert {outcome: decide(outcome, standing, POLICY, spread=0) for outcome in Outcome} == expected


def test_a_rejected_mail_says_what_it_died_of() -> None:
    verdict = decide(Outcome.REJECTED, FRESH, POLICY, spread=0, dead_reason=DeadReason.INVALID)
    assert verdict == REJECTED._replace(dead_reason=DeadReason.INVALID)


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600), (8, 3600), (100_000, 3600)]
)
def test_waits_double_up_to_the_cap(attempt: int, seconds: float) -> None:
    assert backoff(attempt, POLICY, spread=0) == seconds


def test_a_cap_below_the_base_wins() -> None:
    assert backoff(1, Policy(base=60, cap=5, max_age=100), spread=0) == 5


def test_the_policy_is_the_settings_in_seconds() -> None:
    settings = Settings.load(outbox_retry_base_seconds=7, outbox_retry_max_seconds=70, outbox_max_age_hours=0.5)
    assert Policy.of(settings) == Policy(base=7, cap=70, max_age=1800)


_SPREADS = st.floats(-1, 1)
_POLICIES = st.builds(
    Policy, base=st.floats(0.001, 10_000), cap=st.floats(0.001, 100_000), max_age=st.floats(0.001, 10_000_000)
)
_STANDINGS = st.builds(
    Standing,
    attempts=st.integers(0, 5000),
    max_attempts=st.integers(1, 5000),
    on_uncertain=st.sampled_from(OnUncertain),
    resends=st.integers(0, 5),
    deaths=st.just(0),
    age=st.floats(0, 10_000_000),
    expires_in=st.none() | st.floats(-10_000_000, 10_000_000),
)


@given(st.integers(1, 5000), _POLICIES, _SPREADS)
def test_every_wait_is_near_the_doubled_one(attempt: int, policy: Policy, spread: float) -> None:
    exact = min(policy.cap, policy.base * 2 ** min(attempt - 1, 60))  # beyond that any cap above is reached
    slack = 1e-9 * exact
    assert (1 - SPREAD) * exact - slack <= backoff(attempt, policy, spread) <= (1 + SPREAD) * exact + slack


@given(st.sampled_from(Outcome), _STANDINGS, _POLICIES, _SPREADS)
def test_no_bound_is_ever_passed(outcome: Outcome, standing: Standing, policy: Policy, spread: float) -> None:
    verdict = decide(outcome, standing, policy, spread)

    assert (verdict.status is Status.DEAD) == (verdict.dead_reason is not None)
    if verdict.status is Status.PENDING:
        assert verdict.delay > 0
    if verdict.status is Status.PENDING and verdict.counted:
        assert standing.attempts + 1 < standing.max_attempts
        assert standing.age + verdict.delay <= policy.max_age
        assert standing.expires_in is None or verdict.delay < standing.expires_in
    if outcome in RELAYS_TROUBLE and not (outcome is Outcome.THROTTLED and standing.age > policy.max_age):
        assert verdict.status is Status.PENDING
        assert not verdict.counted
    else:
        assert verdict.counted
    if outcome is Outcome.UNCERTAIN:
        assert verdict.status in {Status.PENDING, Status.UNCERTAIN}
        if verdict.status is Status.PENDING:
            assert standing.resends < 2
            assert standing.on_uncertain is OnUncertain.RETRY


@given(_STANDINGS, _POLICIES, _SPREADS)
def test_a_mail_that_is_always_lost_after_the_dot_goes_out_three_times_at_most(
    standing: Standing, policy: Policy, spread: float
) -> None:
    conversations = 1
    lost = standing._replace(resends=0)
    while decide(Outcome.UNCERTAIN, lost, policy, spread).status is Status.PENDING:
        conversations += 1
        lost = lost._replace(resends=lost.resends + 1, attempts=lost.attempts + 1)
    assert conversations <= 1 + RESENDS


def test_what_kills_its_worker_is_given_up() -> None:
    verdicts = [after_death(FRESH, before, POLICY, 0) for before in range(MOST_COMPOSITIONS)]
    assert verdicts == [AGAIN] * (MOST_COMPOSITIONS - 1) + [Verdict(Status.DEAD, dead_reason=DeadReason.INVALID)]


def test_tasks_that_were_forgotten_do_not_count_against_a_mail() -> None:
    assert after_death(FRESH._replace(deaths=9), 0, POLICY, 0) == AGAIN


def test_a_death_is_an_attempt() -> None:
    assert after_death(LAST_ATTEMPT, 0, POLICY, 0) == EXHAUSTED
    assert after_death(FRESH._replace(on_uncertain=OnUncertain.HOLD), 0, POLICY, 0) == AGAIN
