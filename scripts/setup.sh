# Sourced by the scripts beside it: makes .venv and installs what the script named in $needs.
# Nothing but a Python of at least 3.11 with venv and pip is expected; running it again costs a second.
cd "$(dirname "$0")/.."

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
give_up() { printf 'Error: %s\n' "$*" >&2; exit 1; }

find_python() {
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    give_up "Python 3.11 or newer was not found. Install it, or name it: PYTHON=/path/to/python $0"
}

set_up() {  # set_up NAME PIP-ARGUMENTS...: once per NAME and pyproject.toml
    name=$1
    shift
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || exit 1
        say "Creating .venv with $("$python" --version) ..."
        "$python" -m venv .venv || {
            rm -rf .venv
            give_up "the venv module does not work; on Debian and Ubuntu install the package python3-venv"
        }
    fi
    stamp=.venv/.installed-$name
    if [ -e "$stamp" ] && [ ! pyproject.toml -nt "$stamp" ]; then
        return
    fi
    say "Installing what $name needs into .venv (PyTorch is the largest part) ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1" ||
        give_up "pip cannot reach a package index; check the network or pip's configuration, then run $0 again"
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar on "$@" |
        grep --line-buffered -E '^(Collecting|Installing|Successfully)' >&2
    .venv/bin/python -c 'import salver' 2>/dev/null && .venv/bin/python -m pip check >/dev/null ||
        give_up "the installation did not succeed; the messages above say why, then run $0 again"
    touch "$stamp"
}
