"""The users and their results as CSV, for an admin."""
