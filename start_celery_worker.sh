#!/bin/sh
# One Celery worker that sends mail: CELERY_WORKER_QUEUES (all four), CELERY_WORKER_CONCURRENCY (16 threads).
# Run one a core. SIGTERM lets it finish the mail in hand.
cd "$(dirname "$0")" || exit 1
python=.venv/bin/python
[ -x "$python" ] || python=python3
if ! "$python" -c 'import celery, dotenv, flower' 2>/dev/null; then
    echo "$0: Celery and its companions are not installed: run ./start_services.sh once, which makes .venv with them." >&2
    exit 1
fi
exec "$python" -m workers.start worker
