"""Stands in for Gemini CLI: sessions by id, index and latest, JSON and stream-json; STUB_DO says what happens."""

import json
import os
import sys
import uuid
from pathlib import Path

HELP = """Usage: gemini [options] [command]

Options:
  -m, --model             Model  [string]
  -p, --prompt            Appended to input on stdin (if any).  [string]
  -s, --sandbox           Run in sandbox?  [boolean]
      --skip-trust        Trust the current workspace for this session.  [boolean]
      --approval-mode     Set the approval mode  [string]
      --allowed-tools     Tools that are allowed to run without confirmation  [array]
  -r, --resume            Resume a previous session.  [string]
      --session-id        Start a new session with a manually provided UUID.  [string]
      --list-sessions     List available sessions for the current project and exit.  [boolean]
  -o, --output-format     The format of the CLI output.  [string] [choices: "text", "json", "stream-json"]
"""
OLD = """Usage: gemini [options]

Options:
  -m, --model             Model  [string]
  -p, --prompt            Prompt. Appended to input on stdin (if any).  [string]
  -s, --sandbox           Run in sandbox?  [boolean]
  -r, --resume            Resume a previous session.  [string]
  -o, --output-format     The format of the CLI output.  [string] [choices: "text", "json"]
"""

args = sys.argv[1:]
do = os.environ.get("STUB_DO", "")
if "--help" in args:
    print(OLD if do == "old" else HELP)
    sys.exit(0)


def value(flag: str) -> str | None:
    return args[args.index(flag) + 1] if flag in args else None


calls = Path(os.environ["STUB_CALLS"])
prompt = sys.stdin.read()
call = {"argv": args, "cwd": os.getcwd(), "stdin": prompt}
(calls / f"{len(list(calls.iterdir())):03}.json").write_text(json.dumps(call))
project = Path(os.environ["HOME"]) / ".gemini" / "tmp" / Path.cwd().name
chats = project / "chats"
chats.mkdir(parents=True, exist_ok=True)
(project / ".project_root").write_text(os.getcwd())
ids = [json.loads(file.read_text().splitlines()[0])["id"] for file in sorted(chats.iterdir())]
if "--list-sessions" in args:
    print(f"\nAvailable sessions for this project ({len(ids)}):")
    for number, each in enumerate(ids, 1):
        print(f"  {number}. a [title] (Just now) [{each}]")
    sys.exit(0)
if do == "signed out":
    print("Invalid auth method selected.", file=sys.stderr)
    sys.exit(41)
wanted = value("--resume")
if wanted == "latest" and ids:
    session = ids[-1]
elif wanted and wanted.isdigit() and int(wanted) <= len(ids):
    session = ids[int(wanted) - 1]
elif wanted and wanted in ids and do != "no ids":
    session = wanted
elif wanted:
    print(f'Error resuming session: Invalid session identifier "{wanted}".', file=sys.stderr)
    sys.exit(42)
else:
    session = value("--session-id") or str(uuid.uuid4())
    if session in ids:
        print(f'Error starting session: Session ID "{session}" already exists.', file=sys.stderr)
        sys.exit(42)
    (chats / f"session-{len(ids):03}-{session[:8]}.jsonl").write_text(json.dumps({"id": session}) + "\n")
(file,) = chats.glob(f"session-*-{session[:8]}.jsonl")
with file.open("a") as opened:
    opened.write(json.dumps({"prompt": prompt}) + "\n")
turns = file.read_text().count('"prompt"')
answer = f"turn {turns} of {session}"
if do == "introduce":
    answer = "I am an interactive CLI agent specialising in software. " + answer
print("noise on stderr", file=sys.stderr)
if value("-o") == "stream-json":
    print(json.dumps({"type": "init", "session_id": session, "model": value("-m") or "auto"}), flush=True)
    if do == "tools":
        steps = [
            {"type": "message", "role": "assistant", "content": "I look.", "delta": True},
            {"type": "tool_use", "tool_name": "read_file", "tool_id": "r-1", "parameters": {"path": "a"}},
            {"type": "tool_result", "tool_id": "r-1", "status": "success", "output": "the text"},
            {"type": "tool_use", "tool_name": "glob", "tool_id": "g-2"},
            {"type": "tool_result", "tool_id": "g-2", "status": "error", "error": {"type": "x", "message": "no such"}},
            {"type": "error", "severity": "warning", "message": "loop detected"},
        ]
        print("\n".join(json.dumps(step) for step in steps), flush=True)
    for half in (answer[:5], answer[5:]):
        print(json.dumps({"type": "message", "role": "assistant", "content": half, "delta": True}), flush=True)
    stats = {"input_tokens": 2, "output_tokens": 4}
    print(json.dumps({"type": "result", "status": "success", "stats": stats}))
else:
    print("Loaded cached credentials.")
    print(json.dumps({"session_id": session, "response": answer, "stats": {}}, indent=2))
