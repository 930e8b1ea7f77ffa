#!/bin/sh
# Start a polling runner with its private environment file: what launchd, screen and the Windows batch start.
# The file sets WORKER_URL and WORKER_TOKEN; docker/setup.sh writes one.
set -eu
file=${CLAWPLANE_RUNNER_ENV:-$HOME/.config/clawplane/runner.env}
if [ ! -r "$file" ]; then
    echo "There is no $file with WORKER_URL and WORKER_TOKEN (docker/setup.sh writes one)." >&2
    exit 78
fi
if [ -n "$(find "$file" -perm -0040 -o -perm -0004)" ]; then
    echo "$file holds a token and others can read it: chmod 600 $file" >&2
    exit 78
fi
umask 077
set -a
. "$file"
set +a
here=$(cd "$(dirname "$0")/.." && pwd)
exec "${CLAWPLANE:-$here/.venv/bin/clawplane}" worker "$@"
