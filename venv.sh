# shellcheck shell=bash
# Sourced by the scripts beside it, from the folder that holds them: one virtual environment, .venv, for all.

# ensure_venv FILE...   makes .venv if there is none, and installs the pinned files that changed since the last time.
ensure_venv() {
    local file changed=()
    .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || _make_venv || return
    for file in "$@"; do
        [[ "$(_stamp "$file")" == "$(cat ".venv/$file.stamp" 2>/dev/null)" ]] || changed+=(-r "$file")
    done
    ((${#changed[@]})) || return 0
    echo "Installing ${changed[*]//-r/} into .venv: once, a minute or so." >&2
    if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check "${changed[@]}"; then
        echo "pip could not install the packages (its reason stands above): mend that and start again." >&2
        return 1
    fi
    for file in "$@"; do _stamp "$file" >".venv/$file.stamp"; done
}

_make_venv() {
    local python
    python=$(_find_python) || return
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$python cannot make a virtual environment: install its venv package" \
            "(Debian, Ubuntu: apt install $("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')-venv)." >&2
        return 1
    fi
    rm -rf .venv && "$python" -m venv .venv
}

_find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3 python; do
        # Run it: a name on the PATH may be a shim of a version manager with nothing behind it.
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "Python 3.11 or newer is needed and none was found: install it (Debian, Ubuntu: apt install python3 python3-venv;" \
        "macOS: brew install python) and start again." >&2
    return 1
}

# The folder is part of it: a virtual environment does not survive being moved.
_stamp() {
    echo "$PWD $(cksum "$1")"
}
