#!/usr/bin/env bash
# Everything that must hold, on a fresh machine: style, types, the walls between packages, tests, coverage.
#   ./run_tests.sh                      all of it
#   ./run_tests.sh tests/unit -k retry  pytest alone, with these arguments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

source ./venv.sh
ensure_venv requirements.txt requirements-dev.txt
PATH="$PWD/.venv/bin:$PATH"

# The tests with a browser drive the system's: on a laptop they are skipped where there is none, in CI they would fail.
if [[ ${CI:-} ]] && ((EUID == 0)) && [[ ! $(type -P chromium chromium-browser google-chrome) ]] && type -P apt-get >/dev/null; then
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium; } >/dev/null ||
        echo "chromium could not be installed: the tests with a browser will fail." >&2
fi

if (($#)); then
    exec python -m pytest "$@"
fi

# Where a container's image forbids it, each of the hundreds of processes to come would compile all of our packages anew.
unset PYTHONDONTWRITEBYTECODE
python -m compileall -q app embedded migrations outbox workers

# mypy takes longest, and one core: the rest goes beside it, and then the tests, which end if it finds something. The
# collection leaves the tests compiled, with their assertions rewritten, where each of pytest's processes would do it
# again; should that fail, pytest itself will tell.
python -m mypy &
types=$! tests=
trap 'kill $types $tests 2>/dev/null' EXIT
python -m ruff format --check .
python -m ruff check .
lint-imports --no-logo
python -m pytest --collect-only >/dev/null || true

# Three at a time on two cores: the acceptance tests wait for processes more than they compute.
python -m pytest -n 3 --dist worksteal --cov --cov-report=term &
tests=$!
wait $types
wait $tests
trap - EXIT
