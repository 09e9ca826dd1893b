#!/usr/bin/env bash
# ./run.sh [options]   set up on first use, then serve (the options of `chatstream serve`)
# ./run.sh test [...]  install what the tests need and run them (the options of pytest)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf 'chatstream: %s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say 'Python 3.11 or newer is needed; set PYTHON to its path if it is not on PATH'
    exit 1
}

# A stamp says what is installed: its content is the checksum of what the installation depends on.
installed() { [ "$(cat ".venv/.installed-$1" 2>/dev/null)" = "$(stamp)" ]; }
stamp() { cksum pyproject.toml run.sh; }

prepare() { # prepare EXTRAS: serve or test
    if installed "$1"; then return; fi
    [ -x .venv/bin/python ] || { say 'making .venv'; "$(find_python)" -m venv .venv; }
    if [ "$1" = test ]; then
        say 'installing chatstream and what its tests need'
        .venv/bin/python -m pip install --disable-pip-version-check -e '.[test]'
    else
        say 'installing chatstream (once; a minute or so)'
        .venv/bin/python -m pip install --disable-pip-version-check -e .
    fi
    stamp >".venv/.installed-$1"
}

if [ "${1:-}" = test ]; then
    shift
    prepare test
    exec .venv/bin/python -m pytest "$@"
fi
prepare serve
exec .venv/bin/chatstream serve "$@"
