"""Stands in for Claude Code: its arguments, streams, transcripts, errors and exit codes; STUB_DO says what happens."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HELP = """Usage: claude [options] [command] [prompt]

Options:
  --allowedTools, --allowed-tools <tools...>        Comma or space-separated list of tool names to allow
  --bare                                            Minimal mode: skip hooks. Give context with --add-dir,
                                                    --made-up, --settings
  --dangerously-skip-permissions                    Bypass all permission checks.
  --max-budget-usd <amount>                         Maximum dollar amount
  --model <model>                                   Model for the current session.
  --output-format <format>                          Output format: (choices: "text", "json",
                                                    "stream-json")
  --permission-mode <mode>                          (choices: "acceptEdits", "dontAsk", "default")
  -p, --print                                       Print response and exit
  -r, --resume [value]                              Resume a conversation by session ID
  --session-id <uuid>                               Use a specific session ID
  --settings <file-or-json>                         Path to a settings JSON file
  --verbose                                         Override verbose mode
"""
OLD = """Usage: claude [options] [command] [prompt]

Options:
  -p, --print                     Print response and exit
  -r, --resume [sessionId]        Resume a conversation
  --model <model>                 Model for the current session.
  --dangerously-skip-permissions  Bypass all permission checks.
"""

args = sys.argv[1:]
do = os.environ.get("STUB_DO", "")
if "--help" in args:
    if do == "helpless":
        sys.exit(1)
    print(OLD if do == "old" else HELP)
    sys.exit(0)


def value(flag: str) -> str | None:
    return args[args.index(flag) + 1] if flag in args else None


prompt = sys.stdin.buffer.read().decode()
calls = Path(os.environ["STUB_CALLS"])
call = {"argv": args, "cwd": os.getcwd(), "stdin": prompt, "env": dict(os.environ)}
(calls / f"{len(list(calls.iterdir())):03}.json").write_text(json.dumps(call))
streaming = value("--output-format") == "stream-json"


def say(**said: object) -> None:
    if streaming:
        print(json.dumps(said), flush=True)


def fail(message: str, session: str) -> None:
    say(type="result", subtype="error_during_execution", is_error=True, session_id=session, errors=[message])
    print(message, file=sys.stderr)
    sys.exit(1)


projects = Path(os.environ["HOME"]) / ".claude" / "projects"
own = projects / re.sub(r"[^A-Za-z0-9]", "-", os.getcwd())
own.mkdir(parents=True, exist_ok=True)
session = value("--resume") or value("--session-id") or "0f0f0f0f-0000-4000-8000-000000000000"
if do == "fail":
    print("it broke", file=sys.stderr)
    sys.exit(3)
transcript = own / f"{session}.jsonl"
if "--resume" in args and not transcript.exists():
    fail(f"No conversation found with session ID: {session}", session)
if "--session-id" in args and list(projects.glob(f"*/{session}.jsonl")):
    print(f"Error: Session ID {session} is already in use.", file=sys.stderr)
    sys.exit(1)
model = value("--model") or "stub-default"
say(type="system", subtype="init", session_id=session, model=model, cwd=os.getcwd())
with transcript.open("a") as file:
    file.write(json.dumps({"type": "mode"}) + "\n")
    file.write(json.dumps({"type": "user", "cwd": os.getcwd(), "message": {"role": "user", "content": prompt}}) + "\n")
turns = transcript.read_text().count('"role"')
if model in os.environ.get("STUB_REFUSED", "").split(","):
    text = f"API Error: 400 model: unknown model {model}"
    say(type="result", subtype="success", is_error=True, result=text, session_id=session)
    if not streaming:
        print(text)
    sys.exit(1)
if do == "hang":
    print(json.dumps({"type": "assistant", "message": {"content": [{"type": "text", "text": "so far"}]}}), flush=True)
    time.sleep(3600)
if do == "kill":
    os.kill(os.getpid(), 9)
if do == "mute":
    sys.exit(0)
if do == "budget":
    say(
        type="result",
        subtype="error_max_budget_usd",
        is_error=True,
        session_id=session,
        total_cost_usd=0.5,
        errors=["Reached maximum budget"],
    )
    sys.exit(1)
answer = f"turn {turns} of {session}: {prompt[:40]}"
if do == "tool":
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "rm -r build"}}
    say(type="assistant", message={"content": [call]})
    settings = json.loads(Path(value("--settings") or "").read_text())
    hook = settings["hooks"]["PreToolUse"][0]["hooks"][0]
    asked = json.dumps({"tool_name": "Bash", "tool_input": {"command": "rm -r build"}, "cwd": os.getcwd()})
    done = subprocess.run(  # noqa: PLW1510
        hook["command"], shell=True, input=asked, capture_output=True, text=True, timeout=hook["timeout"]
    )
    if done.returncode == 0:
        answer = "ran: " + json.loads(done.stdout)["hookSpecificOutput"]["permissionDecision"]
    else:
        answer = f"blocked {done.returncode}: {done.stderr.strip()}"
if do == "large":
    block = {"type": "tool_result", "tool_use_id": "t1", "content": "x" * 3_000_000}
    for _ in range(8):
        say(type="user", message={"content": [block]})
if do == "screenshot":
    answer = "See it.\nPLEASE_UPLOAD_TO_DISCORD: /tmp/shots/page one.png"
say(type="assistant", message={"content": [{"type": "text", "text": answer}]})
usage = {"input_tokens": 3, "output_tokens": 5}
say(
    type="result",
    subtype="success",
    is_error=False,
    result=answer,
    session_id=session,
    total_cost_usd=0.25,
    usage=usage,
)
if not streaming:
    print(answer)
