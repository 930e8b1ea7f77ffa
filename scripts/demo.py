"""Show the main jobs end to end: a Worker, from upload to its exported rows; a code session; a host task.

Everything lives in a temporary directory and is gone afterwards, but for the CSV file, which stays.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
CLAWPLANE = PROJECT / ".venv" / "bin" / "clawplane"
WORKER = PROJECT / "examples" / "python-library-survey"
POLICY = """# bounds what host tasks may do: commands and files, in this directory
groups = ["command", "files"]
directories = [{place}]
roots = [{place}]
"""
INPUT = '{"modules": ["json*", "http*", "asyncio*", "email*"]}'


def free_port() -> int:
    """Return a port of the loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def title(text: str) -> None:
    """Announce a step."""
    print(f"\n== {text}", flush=True)


def command(environment: dict[str, str], *arguments: str) -> None:
    """Show a command and run it; the demo ends when it fails."""
    print(f"$ clawplane {shlex.join(arguments)}", flush=True)
    subprocess.run([str(CLAWPLANE), *arguments], env=environment, check=True)


def main() -> int:
    """Run the demo and return its exit code."""
    with tempfile.TemporaryDirectory(prefix="clawplane-demo-") as directory:
        port = free_port()
        environment = os.environ | {
            "CLAWPLANE_URL": f"http://127.0.0.1:{port}",
            "CLAWPLANE_API_KEY": f"scraper_api_{secrets.token_hex(24)}",
            "CLAWPLANE_DATA": directory,
            "CLAWPLANE_SESSION_PROFILES": "bare",
            "XDG_STATE_HOME": f"{directory}/state",
        }
        own = Path(directory) / "own-machine"
        own.mkdir(mode=0o700)
        policy = Path(directory) / "host-policy.toml"
        policy.write_text(POLICY.format(place=json.dumps(str(own))), encoding="utf-8")
        title(f"Starting clawplane on port {port} (embedded: SQLite and one directory)")
        up = subprocess.Popen(
            [
                *(str(CLAWPLANE), "up", "--port", str(port), "--data", directory, "--log", "warning"),
                *("--host-tasks", "--host-policy", str(policy)),
            ],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert up.stderr is not None  # noqa: S101 - tells the type checker what PIPE gives
        try:
            for line in up.stderr:
                print(line, end="", flush=True)
                if line.startswith("Ready"):
                    break
            else:
                return up.wait()
            csv = PROJECT / "demo.csv"
            title("Uploading a Worker: it is checked, and its dependencies are installed")
            command(environment, "workers", "push", str(WORKER))
            title("Running it isolated, on this machine's own Python library")
            command(environment, "runs", "start", f"local~{WORKER.name}", "--input", INPUT, "--cpus", "1", "--logs")
            title("Its rows")
            command(environment, "runs", "results", "last", "--limit", "8")
            title("The same as a file")
            command(environment, "runs", "export", "last", "--format", "csv", "--output", str(csv))
            title("A computer for an agent: three execs in one session")
            session = subprocess.run(
                [str(CLAWPLANE), "session", "create", "--profile", "bare", "--json"],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            )
            name = json.loads(session.stdout)["id"]
            command(environment, "exec", "python", "answer = sum(range(10)); answer", "--session", name)
            command(
                environment, "exec", "shell", "echo it was computed on $(uname -s) > note; cat note", "--session", name
            )
            command(environment, "exec", "python", "print(answer, open('note').read())", "--session", name)
            title("A host task: a command with all rights of its runner's user, which only --host-tasks allows")
            command(environment, "task", "run", 'echo "done by $(id -un) in $PWD" | tee note; ls -l')
            title("Done")
            print(f"The CSV file is {csv}")
            print(f"The API was at http://127.0.0.1:{port}/api/v2 (its description: /openapi.json).")
            print("Start your own with `make up`; it listens on http://127.0.0.1:3456 and keeps its data.")
            return 0
        finally:
            up.send_signal(signal.SIGINT)
            up.stderr.close()
            up.wait(15)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failure:
        sys.exit(failure.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
