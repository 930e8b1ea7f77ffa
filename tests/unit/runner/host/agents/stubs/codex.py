"""Stands in for Codex: `exec` and `exec resume`, JSON lines, session files; STUB_DO says what happens."""

import json
import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

EXEC = {"-c", "--config", "-m", "--model", "-s", "--sandbox", "-C", "--cd", "--skip-git-repo-check", "--json", "-o"}
RESUME = {"-c", "--config", "-m", "--model", "--skip-git-repo-check", "--json", "--last"}
OLD = {"-m", "--model", "--full-auto", "--skip-git-repo-check"}
VALUED = {"-c", "--config", "-m", "--model", "-s", "--sandbox", "-C", "--cd", "-o"}

do = os.environ.get("STUB_DO", "")
args = sys.argv[1:]
resume = args[:2] == ["exec", "resume"]
known = OLD if do == "old" else RESUME if resume else EXEC
if "--help" in args:
    print("Run Codex non-interactively\n\nOptions:")
    for long in sorted(each for each in known if each.startswith("--")):
        short = {"--config": "-c, ", "--model": "-m, ", "--sandbox": "-s, ", "--cd": "-C, "}.get(long, "    ")
        print(f"  {short}{long}\n          What it does, unlike --other-things\n")
    sys.exit(0)

rest, words = args[2 if resume else 1 :], []
while rest:
    word = rest.pop(0)
    if word.startswith("-") and word != "-":
        if word not in known:
            print(f"error: unexpected argument '{word}' found", file=sys.stderr)
            sys.exit(2)
        if word in VALUED:
            rest.pop(0)
    else:
        words.append(word)
prompt = sys.stdin.buffer.read().decode() if words[-1:] == ["-"] else words[-1]
calls = Path(os.environ["STUB_CALLS"])
call = {"argv": args, "cwd": os.getcwd(), "stdin": prompt}
(calls / f"{len(list(calls.iterdir())):03}.json").write_text(json.dumps(call))
sessions = Path(os.environ["HOME"]) / ".codex" / "sessions"
thread = words[0] if resume else str(uuid.uuid4())
files = list(sessions.glob(f"*/*/*/*{thread}.jsonl"))
if resume and not files:
    if do == "anew":
        thread = str(uuid.uuid4())
    else:
        print(f"Error: thread/resume: thread/resume failed: no rollout found for thread id {thread}", file=sys.stderr)
        sys.exit(1)
if not files:
    day = sessions / datetime.now(UTC).strftime("%Y/%m/%d")
    day.mkdir(parents=True, exist_ok=True)
    files = [day / f"rollout-2026-01-01T00-00-00-{thread}.jsonl"]
    files[0].write_text(json.dumps({"type": "session_meta", "payload": {"id": thread, "cwd": os.getcwd()}}) + "\n")
with files[0].open("a") as file:
    file.write(json.dumps({"type": "event_msg", "payload": {"type": "user_message", "message": prompt}}) + "\n")
turns = files[0].read_text().count("user_message")
answer = f"turn {turns} of {thread}: {prompt[:40]}"
if "--json" not in args:
    print(f"OpenAI Codex\nsession id: {thread}\n", file=sys.stderr)
    print(answer)
    sys.exit(0)


def say(**said: object) -> None:
    print(json.dumps(said), flush=True)


print("a warning that is no JSON")
say(type="thread.started", thread_id=thread)
say(type="turn.started")
if do == "fail":
    say(type="error", message="stream disconnected")
    say(type="turn.failed", error={"message": "the provider said no"})
    sys.exit(1)
if do == "kill":
    os.kill(os.getpid(), 9)
item = {"id": "i1", "type": "command_execution", "command": "ls", "aggregated_output": "a b", "status": "completed"}
say(type="item.started", item={**item, "status": "in_progress"})
say(type="item.completed", item=item)
say(type="item.completed", item={"id": "i2", "type": "agent_message", "text": "let me see"})
say(type="item.completed", item={"id": "i3", "type": "agent_message", "text": answer})
say(type="turn.completed", usage={"input_tokens": 7, "output_tokens": 9})
