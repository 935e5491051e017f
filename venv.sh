# shellcheck shell=bash
# Sourced by the scripts beside it, from the folder that holds them: one virtual environment, .venv, for all.

# ensure_venv FILE...   makes .venv if there is none, and installs the pinned files that changed since the last time.
ensure_venv() {
    local file changed=() options=()
    .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || _make_venv || return
    for file in "$@"; do
        [[ "$(_stamp "$file")" == "$(cat ".venv/$file.stamp" 2>/dev/null)" ]] && continue
        changed+=("$file")
        options+=(-r "$file")
    done
    ((${#changed[@]})) || return 0
    echo "Installing ${changed[*]} into .venv: once, a minute or so." >&2
    # --use-pep517: as every newer pip does. One that does not warns, in red, of a package that has no wheel.
    # --no-deps: the files name everything. --no-compile: with all cores, below. Together a third of the time.
    local pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 --no-deps --no-compile)
    if ! "${pip[@]}" "${options[@]}"; then
        echo "pip could not install ${changed[*]}: mend what it says above and start again." >&2
        return 1
    fi
    .venv/bin/python -m compileall -qq -j 0 .venv/lib/ || true  # there are files for other Pythons among them
    for file in "${changed[@]}"; do _stamp "$file" >".venv/$file.stamp"; done
}

# run_part worker|beat|flower   becomes that process; in .venv if it is there, with the machine's Python otherwise.
run_part() {
    local python=.venv/bin/python
    [[ -x $python ]] || python=python3
    # Looked for, since to import them takes as long as to start; they are imported soon enough.
    if ! "$python" -c 'import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, sys.argv[1:])))' \
        celery dotenv flower 2>/dev/null; then
        echo "$0: Celery and its companions are not installed: run ./start_services.sh once, which makes .venv with them." >&2
        return 1
    fi
    exec "$python" -m workers.start "$1"
}

_make_venv() {
    local python
    python=$(_find_python) && rm -rf .venv && "$python" -m venv .venv
}

# The name of a Python that can make a virtual environment.
_find_python() {
    local name found=
    for name in python3.13 python3.12 python3.11 python3 python; do
        # Run it: a name on the PATH may be a version manager's, with nothing behind it.
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$name"
            return
        fi
        found=${found:-$name}
    done
    if [[ $found ]]; then
        echo "$found cannot make a virtual environment: install its venv package" \
            "(Debian, Ubuntu: apt install $("$found" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')-venv)" \
            "and start again." >&2
    else
        echo "Python 3.11 or newer is needed and none was found: install it (Debian, Ubuntu: apt install python3" \
            "python3-venv; macOS: brew install python) and start again." >&2
    fi
    return 1
}

# The folder is part of it: a virtual environment does not survive being moved.
_stamp() {
    echo "$PWD $(cksum "$1")"
}
