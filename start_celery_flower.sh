#!/bin/sh
# Flower on http://127.0.0.1:5555: FLOWER_ADDRESS, FLOWER_PORT, FLOWER_BASIC_AUTH=user:password.
cd "$(dirname "$0")" || exit 1
python=.venv/bin/python
[ -x "$python" ] || python=python3
if ! "$python" -c 'import celery, dotenv, flower' 2>/dev/null; then
    echo "$0: Celery and its companions are not installed: run ./start_services.sh once, which makes .venv with them." >&2
    exit 1
fi
exec "$python" -m workers.start flower
