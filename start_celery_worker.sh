#!/usr/bin/env bash
# One Celery worker that sends mail: CELERY_WORKER_QUEUES (all four), CELERY_WORKER_CONCURRENCY (16 threads).
# Run one a core. SIGTERM lets it finish the mail in hand.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

source ./venv.sh
run_part worker
