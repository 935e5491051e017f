#!/usr/bin/env bash
# Flower on http://127.0.0.1:5555: FLOWER_BASIC_AUTH=user:password (without, it does not start), FLOWER_ADDRESS, FLOWER_PORT.
# It only shows, unless FLOWER_READ_ONLY=false.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

source ./venv.sh
run_part flower
