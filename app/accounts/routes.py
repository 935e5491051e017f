"""Log in and out, and what a user sets for themself."""

from flask import Blueprint

accounts = Blueprint("accounts", __name__)
