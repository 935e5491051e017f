"""Outbox: queue mail in your own transaction, have it delivered, know what happened."""

from outbox.attachments import Attachment, Blob
from outbox.errors import (
    IdempotencyConflict,
    InvalidAddress,
    InvalidEmail,
    InvalidHeader,
    InvalidTemplate,
    NotPossible,
    OutboxError,
    SettingsError,
    TooLarge,
)
from outbox.models import QueuedEmail
from outbox.service import EmailService
from outbox.settings import Settings
from outbox.states import DeadReason, OnUncertain, Outcome, Priority, Status

__all__ = [
    "Attachment",
    "Blob",
    "DeadReason",
    "EmailService",
    "IdempotencyConflict",
    "InvalidAddress",
    "InvalidEmail",
    "InvalidHeader",
    "InvalidTemplate",
    "NotPossible",
    "OnUncertain",
    "OutboxError",
    "Outcome",
    "Priority",
    "QueuedEmail",
    "Settings",
    "SettingsError",
    "Status",
    "TooLarge",
]
