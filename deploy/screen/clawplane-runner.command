#!/bin/sh
# Start the runner in a detached screen session; on macOS by a double click or as a login item.
# Look at it with: screen -r clawplane-runner
set -eu
name=clawplane-runner
here=$(cd "$(dirname "$0")/.." && pwd)
if screen -ls 2>/dev/null | grep -q "[.]$name[[:space:]]"; then
    echo "It runs already: screen -r $name" >&2
    exit 0
fi
cd "$HOME"
exec screen -dmS "$name" "$here/run-worker.sh"
