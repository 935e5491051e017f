"""Outbox: queue mail in your own transaction, have it delivered, know what happened."""
