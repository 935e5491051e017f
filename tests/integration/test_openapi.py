"""The API against its own document, by schemathesis: what the document allows is answered as it says, and nothing else.

All of its checks run. A 422 may answer what fits the document: no schema says that a mail without a template needs a
subject, which domains there can be, or that an end lies in the future.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

from app.accounts import tokens
from app.accounts.tokens import Scope
from tests.application import World
from tests.smtp_server import SmtpServer

CONFIG = """
seed = 1
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 404, 409, 422]
"""

EXAMPLES = 8
"""Requests that fit, and as many that do not, of each operation."""


def test_the_api_does_what_its_document_says(sqlite_url: str, redis_url: str, smtp: SmtpServer, tmp_path: Path) -> None:
    world = World(smtp, database_url=sqlite_url, redis_url=redis_url, files_dir=tmp_path, api_rate="1000000/minute")
    with world.session() as session:
        token = tokens.issue(session, world.admin(), "test", list(Scope))
    document = schemathesis.openapi.from_wsgi(
        "/api/openapi.json", world.app, config=SchemathesisConfig.from_str(CONFIG)
    )
    answered: Counter[int] = Counter()

    def ask(case: schemathesis.Case[Any]) -> None:
        answer = case.call_and_validate(headers={"Authorization": f"Bearer {token}"})
        answered[answer.status_code] += 1

    bounded = settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    requests: list[Any] = [{"to": "ada@example.com", "subject": "Hello", "text": "Hello."}, {"to": "ada"}]
    for request in requests:
        ask(document["/api/emails"]["POST"].Case(body=request, media_type="application/json"))
    for found in document.get_all_operations():
        assert isinstance(found, Ok)
        for mode in GenerationMode:
            bounded(given(found.ok().as_strategy(generation_mode=mode))(ask))()
    world.close()
    assert {200, 201, 400, 404, 422} <= answered.keys()
