"""The program that Claude Code runs before every tool use: ask the runner, and refuse unless it clearly says yes.

Called as `approval_hook.py SOCKET SECONDS` with the hook's JSON on standard input. Standard library only, run with
`-I -S`, nothing of clawplane is imported. Exit code 2 is what blocks a tool; any other failure would let Claude Code go
on without a decision, so nothing else may leave this program but 0 with a decision.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

_LARGEST = 1 << 16
_BLOCK = 2


def ask(address: str, seconds: float, question: bytes) -> tuple[bool, str]:
    """Return whether a person allowed the tool, and the reason; raises OSError and ValueError."""
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(seconds)
        link.connect(address)
        link.sendall(b" ".join(question.splitlines()) + b"\n")
        heard = b""
        while not heard.endswith(b"\n") and len(heard) < _LARGEST:
            link.settimeout(max(deadline - time.monotonic(), 0.001))
            piece = link.recv(4096)
            if not piece:
                break
            heard += piece
    said = json.loads(heard)
    return said["allowed"] is True, str(said.get("reason") or "")


def main() -> int:
    """Ask, print the decision, return the exit code."""
    try:
        allowed, reason = ask(sys.argv[1], float(sys.argv[2]), sys.stdin.buffer.read())
    except BaseException as failed:
        sys.stderr.write(f"The runner could not be asked ({type(failed).__name__}); the tool is refused.\n")
        return _BLOCK
    if not allowed:
        sys.stderr.write(f"{reason or 'Refused.'}\n")
        return _BLOCK
    decision = {
        "hookEventName": "PreToolUse",
        "permissionDecision": "allow",
        "permissionDecisionReason": reason or "Allowed by a person.",
    }
    sys.stdout.write(json.dumps({"hookSpecificOutput": decision}))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    os._exit(main())
