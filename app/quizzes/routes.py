"""The quizzes, taking one, and its result."""

from flask import Blueprint

quizzes = Blueprint("quizzes", __name__)
