"""The bell, the list behind it, and the stream that keeps open pages up to date."""

from flask import Blueprint
from flask.sansio.blueprints import BlueprintSetupState

from app.notifications.wakes import Wakes

notifications = Blueprint("notifications", __name__)


@notifications.record_once
def _set_up(state: BlueprintSetupState) -> None:
    state.app.extensions["wakes"] = Wakes(state.app.extensions["settings"].redis_url)
