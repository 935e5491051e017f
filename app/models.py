"""All tables of the application, for whoever needs the whole schema: the migrations and their test."""

from app import dead_tasks
from app.accounts import models as accounts
from app.database import Base
from app.exports import models as exports
from app.files import models as files
from app.notifications import models as notifications
from app.projects import models as projects
from app.quizzes import models as quizzes

__all__ = ["Base", "accounts", "dead_tasks", "exports", "files", "notifications", "projects", "quizzes"]
