"""What the command `flask` works on (`FLASK_APP`): the application of the workers with its pages, and all commands."""

from app.pages import add_pages
from workers import flask_app
from workers.cli import tasks
from workers.dead_cli import dead

add_pages(flask_app)
flask_app.cli.add_command(tasks)
flask_app.cli.add_command(dead)
