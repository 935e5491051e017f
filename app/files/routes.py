"""Pictures: upload, list, serve."""

from flask import Blueprint

files = Blueprint("files", __name__)
