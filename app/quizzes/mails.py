"""What every mail about quizzes says."""

from typing import Any

from app.accounts.mails import about
from app.accounts.models import User
from app.settings import AppSettings


def addressed_to(user: User, settings: AppSettings) -> dict[str, Any]:
    """The part of a template's context that is the same in all of them. Outside a request: no `url_for`."""
    return {
        **about(user),
        "quizzes_url": f"{settings.app_url}/quizzes/",
        "preferences_url": f"{settings.app_url}/preferences",
    }


def quiz_url(id_: int, settings: AppSettings) -> str:
    """Where a quiz is taken."""
    return f"{settings.app_url}/quizzes/{id_}"
