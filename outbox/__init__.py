"""Outbox: queue mail in your own transaction, have it delivered, know what happened."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_ELSEWHERE = {
    "Attachment": "attachments",
    "Blob": "attachments",
    "EmailService": "service",
    "QueuedEmail": "models",
    "Settings": "settings",
    **dict.fromkeys(("DeadReason", "OnUncertain", "Outcome", "Priority", "Status"), "states"),
}
"""Where each is; the others are errors."""


def __getattr__(name: str) -> object:
    # Imported when asked for: pytest loads the plugin of an installed package, and with it this file, at every start.
    # All of the library takes half a second, and what is imported then escapes a coverage that starts afterwards.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"outbox.{_ELSEWHERE.get(name, 'errors')}"), name)
