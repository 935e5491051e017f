"""Quizzes by subject, attempts at them, reminders and reports."""
