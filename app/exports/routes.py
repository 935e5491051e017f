"""Ask for an export, see how it stands, download it."""

from flask import Blueprint

exports = Blueprint("exports", __name__)
