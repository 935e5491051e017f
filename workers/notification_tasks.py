"""Notifications: to one user, or to all of an organisation."""
