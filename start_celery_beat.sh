#!/usr/bin/env bash
# Celery beat, the safety net: a drain every OUTBOX_DRAIN_SECONDS. ./stop_celery_beat.sh ends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

source ./venv.sh
run_part beat
