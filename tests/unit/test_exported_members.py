"""What an application imports. To add here is a promise; to take away breaks somebody."""

import outbox


def test_the_exported_members() -> None:
    assert outbox.__all__ == [
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
    assert all(hasattr(outbox, name) for name in outbox.__all__)
