"""All blueprints. Gathered here and not in `app`, whose names for its packages theirs would take."""

from app.accounts.routes import accounts
from app.admin import admin
from app.api import api
from app.exports.routes import exports
from app.files.routes import files
from app.health import health
from app.hooks import hooks
from app.metrics import metrics
from app.notifications.routes import notifications
from app.projects.routes import projects
from app.quizzes.routes import quizzes
from app.status import status
from app.unsubscribe import unsubscribing

ROOMS = (
    status, health, metrics, unsubscribing, admin, accounts, quizzes, projects, files, exports, notifications,
    api, hooks,
)  # fmt: skip
