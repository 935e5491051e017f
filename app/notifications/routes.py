"""The bell, the list behind it, and the stream that keeps open pages up to date."""

from flask import Blueprint

notifications = Blueprint("notifications", __name__)
