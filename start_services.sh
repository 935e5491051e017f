#!/usr/bin/env bash
# Everything on this machine, shown at work: a few mails from a transaction to an inbox.
#   ./start_services.sh            stays until Ctrl-C, then stops everything
#   ./start_services.sh --detach   leaves it running; ./stop_services.sh stops it
# What the environment or .env names (DATABASE_URL, REDIS_URL, SMTP_HOST) is used; the rest is embedded, on loopback.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

source ./venv.sh
ensure_venv requirements.txt
exec .venv/bin/python -m embedded start "$@"
