#!/bin/sh
# Celery beat, the safety net: a drain every OUTBOX_DRAIN_SECONDS. ./stop_celery_beat.sh ends it.
cd "$(dirname "$0")" || exit 1
python=.venv/bin/python
[ -x "$python" ] || python=python3
if ! "$python" -c 'import celery, dotenv, flower' 2>/dev/null; then
    echo "$0: Celery and its companions are not installed: run ./start_services.sh once, which makes .venv with them." >&2
    exit 1
fi
exec "$python" -m workers.start beat
