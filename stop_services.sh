#!/usr/bin/env bash
# Stops what ./start_services.sh started. The data in var stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ ! -x .venv/bin/python ]]; then
    echo "Nothing is running here."
    exit
fi
exec .venv/bin/python -m embedded stop
