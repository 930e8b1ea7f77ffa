#!/bin/sh
# Make .venv with the locked dependencies. Safe to run again at any time.
set -eu
cd "$(dirname "$0")/.."
. scripts/apt.sh

# Debian's own interpreter starts three times faster than a version manager's shim, and every user can reach it.
python=
for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || need "clawplane" python3 python3-venv
python=${python:-/usr/bin/python3}
"$python" -c 'import ensurepip' >/dev/null 2>&1 || need "The virtual environment" python3-venv

if ! [ -x .venv/bin/python ] || ! .venv/bin/python -c 'import sys' >/dev/null 2>&1; then
    echo "Making .venv with $("$python" --version)" >&2
    rm -rf .venv
    "$python" -m venv .venv
fi
echo "Installing the locked dependencies" >&2
.venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements-dev.lock
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
touch .venv/.ready
