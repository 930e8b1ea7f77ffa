#!/bin/sh
# Make the private files of a deployment with compose, then build and start it. Safe to run again: what is there stays.
#
#   ./setup.sh                 files, image, container
#   ./setup.sh --files-only    files alone
#
# .env                  what compose reads: tokens of 256 bits, the address to publish on
# .runtime/runner.env   what the runner's host needs: the address and a token that can take tasks and nothing else.
#                       No bot token is in it.
# No token is ever printed.
set -eu
umask 077
cd "$(dirname "$0")"
start=yes
case "${1-}" in
"") ;;
--files-only) start=no ;;
*)
    echo "usage: setup.sh [--files-only]" >&2
    exit 2
    ;;
esac

if [ "$start" = yes ] && ! docker compose version >/dev/null 2>&1; then
    echo "This needs Docker with the compose plugin; with --files-only it writes the files without." >&2
    exit 1
fi

token() {
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

# value FILE NAME: what FILE sets NAME to
value() {
    sed -n "s/^$2=//p" "$1" | tail -n 1
}

mkdir -p .runtime/claude-projects .runtime/codex-sessions
chmod 700 .runtime
if [ ! -e .env ]; then
    {
        echo "# Made by setup.sh. Private: whoever has WORKER_TOKEN can run commands on every runner's host."
        echo "WORKER_TOKEN=$(token)"
        echo "# Bots get this one: it submits and fetches, and can take no task."
        echo "CLAWPLANE_HOST_CLIENT_TOKEN=$(token)"
        echo "# Runners get this one: it takes and reports tasks, and can submit none."
        echo "CLAWPLANE_HOST_RUNNER_TOKEN=$(token)"
        echo "# The admin key of the native API. Without it the first start would show one in the container's log."
        echo "CLAWPLANE_API_KEY=scraper_api_$(token)"
        echo "# 0.0.0.0 publishes to the network; put TLS before it then."
        echo "TASK_API_BIND=127.0.0.1"
        echo "TASK_API_PORT=3456"
        echo "TASK_API_UID=$(id -u)"
        echo "TASK_API_GID=$(id -g)"
        for place in CLAUDE_PROJECTS_DIR:.claude/projects CODEX_SESSIONS_DIR:.codex/sessions; do
            [ ! -d "$HOME/${place#*:}" ] || echo "${place%%:*}=$HOME/${place#*:}"
        done
    } >.env.new
    mv .env.new .env
    echo "Wrote .env" >&2
fi
if [ ! -e .runtime/runner.env ]; then
    {
        echo "# Made by setup.sh for the runner's host: $HOME/.config/clawplane/runner.env there, mode 0600."
        echo "WORKER_URL=http://127.0.0.1:$(value .env TASK_API_PORT)"
        echo "WORKER_TOKEN=$(value .env CLAWPLANE_HOST_RUNNER_TOKEN)"
        echo "MAX_CONCURRENT=5"
    } >.runtime/runner.env.new
    mv .runtime/runner.env.new .runtime/runner.env
    echo "Wrote .runtime/runner.env" >&2
fi
chmod 600 .env .runtime/runner.env
if [ "$start" = yes ]; then
    docker compose up -d --build
fi
echo "The runner on this host: set -a; . docker/.runtime/runner.env; set +a; clawplane worker" >&2
