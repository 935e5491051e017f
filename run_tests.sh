#!/usr/bin/env bash
# Everything that must hold, on a fresh machine: style, types, the walls between packages, tests, coverage.
#   ./run_tests.sh                      all of it
#   ./run_tests.sh tests/unit -k retry  pytest alone, with these arguments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

source ./venv.sh
ensure_venv requirements.txt requirements-dev.txt
PATH="$PWD/.venv/bin:$PATH"

if (($#)); then
    exec python -m pytest "$@"
fi

python -m ruff format --check .
python -m ruff check .
python -m mypy
lint-imports --no-logo
# Three at a time on two cores: the acceptance tests wait for processes more than they compute.
exec python -m pytest -n 3 --dist worksteal --cov --cov-report=term
