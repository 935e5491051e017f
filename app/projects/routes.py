"""Projects, their tasks, and what may be done with a task."""

from flask import Blueprint

projects = Blueprint("projects", __name__)
