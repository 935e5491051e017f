"""Which task is tried again by itself."""

import pytest

import workers
from app import queues
from app.retries import ONCE, POLICIES, Policy


def test_every_task_has_its_line() -> None:
    workers.celery.loader.import_default_modules()
    assert POLICIES.keys() == {name for name in workers.celery.tasks if not name.startswith("celery.")}


def test_what_carries_mail_is_never_tried_again() -> None:
    assert POLICIES[queues.SEND_EMAILS] is POLICIES[queues.DRAIN] is ONCE


def test_waits_double_and_differ() -> None:
    policy = Policy()
    assert [policy.delay(attempt, 0) for attempt in range(1, 8)] == [60, 120, 240, 480, 600, 600, 600]
    assert (policy.delay(1, -1), policy.delay(1, 1)) == (48, 72)


@pytest.mark.parametrize("policy", set(POLICIES.values()))
def test_no_wait_outlasts_the_patience_of_redis(policy: Policy) -> None:
    patience = workers.celery.conf.broker_transport_options["visibility_timeout"]
    assert max(policy.delay(attempt, 1) for attempt in range(1, 20)) < patience - 60
