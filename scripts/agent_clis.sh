#!/bin/sh
# Install the real agent CLIs for the tests that use them: scripts/agent_clis.sh [DIRECTORY]
# Without them those tests are skipped. 740 MB; the versions are those that the adapters were checked with.
set -eu

dir=${1:-${CLAWPLANE_AGENT_CLIS:-${XDG_CACHE_HOME:-$HOME/.cache}/clawplane/agent-clis}}
command -v npm >/dev/null 2>&1 || { echo "npm is needed to install the agent CLIs." >&2; exit 1; }
mkdir -p "$dir"
npm install --prefix "$dir" --no-save --no-audit --no-fund --loglevel=error \
    @anthropic-ai/claude-code@2.1.197 @openai/codex@0.169.0 @google/gemini-cli@0.61.0
echo "The agent CLIs are in $dir. Unless that is the default place, set CLAWPLANE_AGENT_CLIS=$dir for the tests."
