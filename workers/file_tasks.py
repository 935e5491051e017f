"""Pictures: thumbnails, and what is cleaned up. Thin: what they do is in `app.files`."""

from dataclasses import asdict
from datetime import UTC, datetime

from celery import shared_task
from flask import current_app

from app.files import cleanup, thumbnails
from app.queues import CLEANUP_FILES, GENERATE_THUMBNAILS


@shared_task(name=GENERATE_THUMBNAILS)
def generate_thumbnails(upload_id: int | None = None) -> dict[str, int]:
    """Make the thumbnails of an upload, or of all that have none yet, as far as they can be made."""
    parts = current_app.extensions
    return asdict(thumbnails.generate(parts["sessions"], parts["settings"], datetime.now(UTC), upload_id))


@shared_task(name=CLEANUP_FILES)
def cleanup_files() -> dict[str, int]:
    """Delete temporary files, orphaned uploads, and what was exported, each at its age."""
    parts = current_app.extensions
    return cleanup.clean_up(parts["sessions"], parts["settings"], datetime.now(UTC))
