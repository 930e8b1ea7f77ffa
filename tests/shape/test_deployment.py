"""The files of a deployment: nothing in them opens more than it says, and no secret is in them or printed by them."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from deployment_files import Step, dockerfile, environment, filled, yaml

PROJECT = Path(__file__).resolve().parents[2]
DOCKER, DEPLOY = PROJECT / "docker", PROJECT / "deploy"
SECRETS = {"WORKER_TOKEN", "CLAWPLANE_HOST_CLIENT_TOKEN", "CLAWPLANE_HOST_RUNNER_TOKEN"}


def image() -> list[list[Step]]:
    return dockerfile((DOCKER / "Dockerfile").read_text())


def compose(**variables: str) -> dict[str, Any]:
    text = filled((DOCKER / "compose.yaml").read_text(), {"WORKER_TOKEN": "t" * 64} | variables)
    found: dict[str, Any] = yaml(text)
    return found


def service() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]["task-api"]
    return found


# the image


def test_every_source_that_the_image_copies_is_in_the_project_and_in_its_context() -> None:
    let_through = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for stage in image():
        for step in stage:
            words = step.words()
            if step.name == "COPY" and not words[0].startswith("--from="):
                copied.update(words[:-1])
    assert copied == let_through
    assert [name for name in copied if not (PROJECT / name).exists()] == []


def test_the_image_runs_as_nobody_in_particular_and_knows_when_it_is_well() -> None:
    last = image()[-1]
    by_name = {step.name: step for step in last}
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", by_name["USER"].text)
    after_user = [step.name for step in last[last.index(by_name["USER"]) :]]
    assert "RUN" not in after_user
    assert by_name["ENTRYPOINT"].text.startswith("[")  # no shell swallows the signal to stop
    assert by_name["CMD"].words()[0] == "task-api"
    assert by_name["VOLUME"].words() == ["/data"]
    assert "/health" in by_name["HEALTHCHECK"].text
    assert all(":" in stage[0].words()[0] and "latest" not in stage[0].text for stage in image())


def test_the_image_installs_by_hash_and_holds_no_secret() -> None:
    runs = [step.text for stage in image() for step in stage if step.name == "RUN"]
    installs = [text for text in runs if "pip install" in text]
    assert all("--require-hashes" in text or "--no-deps" in text for text in installs)
    assert not any("http:" in text or "https:" in text or "curl" in text for text in runs)
    assert not any(name in step.text for stage in image() for step in stage for name in SECRETS)


# compose (R28, R30)


def test_the_queue_lies_on_a_volume_that_outlives_the_container() -> None:
    """R28."""
    volumes = service()["volumes"]
    assert "data:/data" in volumes
    assert "data" in compose()["volumes"]
    data = image()[-1][-1].words()
    assert data[data.index("--data") + 1].startswith("/data/")


def test_the_engines_socket_is_not_mounted_and_nothing_is_privileged() -> None:
    """R30."""
    text = (DOCKER / "compose.yaml").read_text() + (DOCKER / "Dockerfile").read_text()
    assert "docker.sock" not in text
    assert set(compose()["services"]) == {"task-api"}
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service())
    assert service()["cap_drop"] == ["ALL"]
    assert service()["security_opt"] == ["no-new-privileges:true"]
    assert service()["read_only"] is True


def test_it_is_published_to_this_machine_alone_unless_somebody_says_otherwise() -> None:
    assert service()["ports"] == ["127.0.0.1:3456:3456"]
    opened = compose(TASK_API_BIND="0.0.0.0", TASK_API_PORT="8080")["services"]["task-api"]
    assert opened["ports"] == ["0.0.0.0:8080:3456"]


def test_the_sessions_of_the_host_are_shown_read_only_and_it_comes_back_after_a_crash() -> None:
    mounts = dict(volume.split(":", 1) for volume in service()["volumes"])
    assert mounts["./.runtime/claude-projects"] == "/host-claude-projects:ro"
    assert mounts["./.runtime/codex-sessions"] == "/host-codex-sessions:ro"
    assert service()["restart"] == "unless-stopped"


def test_without_a_token_compose_says_what_to_do() -> None:
    with pytest.raises(AssertionError, match=r"run ./setup\.sh first"):
        compose(WORKER_TOKEN="")


# set-up (R29)


def set_up(directory: Path, *options: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a copy of the set-up script as a user whose umask protects nothing."""
    if not (directory / "docker").exists():
        shutil.copytree(DOCKER, directory / "docker", ignore=shutil.ignore_patterns(".env", ".runtime"))
    home = directory / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        ["sh", "-c", 'umask 000; exec sh "$0" "$@"', str(directory / "docker" / "setup.sh"), *options],
        env={"PATH": path or os.environ["PATH"], "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_set_up_makes_private_files_with_long_tokens_and_prints_none_of_them(tmp_path: Path) -> None:
    """R29."""
    done = set_up(tmp_path, "--files-only")
    assert done.returncode == 0, done.stderr
    docker = tmp_path / "docker"
    server, runner = (
        environment((docker / ".env").read_text()),
        environment((docker / ".runtime/runner.env").read_text()),
    )
    tokens = {server[name] for name in SECRETS}
    assert len(tokens) == len(SECRETS)
    assert all(re.fullmatch("[0-9a-f]{64}", token) for token in tokens)
    assert not any(token in done.stdout + done.stderr for token in tokens | {server["CLAWPLANE_API_KEY"]})
    modes = {path: stat.S_IMODE((docker / path).stat().st_mode) for path in (".env", ".runtime", ".runtime/runner.env")}
    assert modes == {".env": 0o600, ".runtime": 0o700, ".runtime/runner.env": 0o600}
    assert set(runner) == {"WORKER_URL", "WORKER_TOKEN", "MAX_CONCURRENT"}  # above all no bot token
    assert runner["WORKER_TOKEN"] == server["CLAWPLANE_HOST_RUNNER_TOKEN"]


def test_set_up_keeps_what_is_there(tmp_path: Path) -> None:
    set_up(tmp_path, "--files-only")
    file = tmp_path / "docker" / ".env"
    file.write_text(file.read_text() + "CALLBACK_BOT_TOKEN=kept-as-it-is\n")
    before = file.read_text()
    (tmp_path / "docker/.runtime/runner.env").unlink()
    assert set_up(tmp_path, "--files-only").returncode == 0
    assert file.read_text() == before
    runner = environment((tmp_path / "docker/.runtime/runner.env").read_text())
    assert runner["WORKER_TOKEN"] == environment(before)["CLAWPLANE_HOST_RUNNER_TOKEN"]
    assert "kept-as-it-is" not in (tmp_path / "docker/.runtime/runner.env").read_text()


def test_set_up_without_an_engine_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "dirname"):
        (programs / name).symlink_to(shutil.which(name) or "")
    done = set_up(tmp_path, path=str(programs))
    assert done.returncode == 1
    assert "Docker" in done.stderr
    assert not (tmp_path / "docker" / ".env").exists()


# starters


def test_units_hold_no_secret_and_end_a_runner_with_what_it_runs(tmp_path: Path) -> None:
    server = (DEPLOY / "systemd" / "clawplane.service").read_text()
    runner = (DEPLOY / "systemd" / "clawplane-runner.service").read_text()
    for unit in (server, runner):
        assert "EnvironmentFile=" in unit
        assert "UMask=0077" in unit
        assert not any(name in line for line in unit.splitlines() if not line.startswith("#") for name in SECRETS)
    assert "KillMode=mixed" in runner
    assert "StateDirectoryMode=0700" in server


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this host has no systemd to ask")
@pytest.mark.parametrize("name", ["clawplane.service", "clawplane-runner.service"])
def test_systemd_understands_every_line_of_the_units(tmp_path: Path, name: str) -> None:
    unit = (DEPLOY / "systemd" / name).read_text().replace("/opt/clawplane/.venv/bin/clawplane", "/bin/true")
    (tmp_path / name).write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_launch_agent_starts_the_runner_privately_and_again_after_a_crash() -> None:
    agent = plistlib.loads((DEPLOY / "launchd" / "dev.clawplane.runner.plist").read_bytes())
    assert agent["Umask"] == 0o077
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert "run-worker.sh" in agent["ProgramArguments"][-1]
    assert "EnvironmentVariables" not in agent  # such files are readable by everybody


def test_the_windows_batch_goes_on_after_a_crash_and_stops_for_a_wrong_file() -> None:
    batch = (DEPLOY / "windows" / "start-runner.bat").read_bytes()
    assert b"\r\n" in batch
    assert b"\n" not in batch.replace(b"\r\n", b"")
    assert b"run-worker.sh" in batch
    assert b"exit /b 78" in batch


@pytest.mark.parametrize(
    "script", ["docker/setup.sh", "deploy/run-worker.sh", "deploy/screen/clawplane-runner.command"]
)
def test_every_script_can_be_read_by_a_plain_shell(script: str) -> None:
    assert os.access(PROJECT / script, os.X_OK)
    done = subprocess.run(["sh", "-n", str(PROJECT / script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_starter_hands_the_runner_its_variables_and_refuses_a_file_that_others_read(tmp_path: Path) -> None:
    program = tmp_path / "clawplane"
    program.write_text('#!/bin/sh\necho "$1 $2 $WORKER_URL $WORKER_TOKEN"\n')
    program.chmod(0o755)
    file = tmp_path / "runner.env"
    file.write_text("WORKER_URL=http://plane.test:3456\nWORKER_TOKEN=a-token-of-this-test\n")
    starter = [str(DEPLOY / "run-worker.sh"), "--name=here"]
    known = os.environ | {"CLAWPLANE_RUNNER_ENV": str(file), "CLAWPLANE": str(program)}
    file.chmod(0o644)
    refused = subprocess.run(starter, env=known, capture_output=True, text=True, check=False)
    assert refused.returncode == 78
    assert "chmod 600" in refused.stderr
    assert "a-token-of-this-test" not in refused.stderr + refused.stdout
    file.chmod(0o600)
    done = subprocess.run(starter, env=known, capture_output=True, text=True, check=True)
    assert done.stdout == "worker --name=here http://plane.test:3456 a-token-of-this-test\n"


# secrets (R29)

HEX = re.compile(r"(?<![0-9a-zA-Z:./_-])[0-9a-f]{40,64}(?![0-9a-zA-Z])")
NAMED = re.compile(
    r"""(?i)\b\w*(?:TOKEN|SECRET|PASSWORD|API_KEY)\w*["']?[ \t]*[:=][ \t]*["']?([^\s"'`${}()<>,;|&*]{16,})"""
)
PUBLIC_ADDRESS = re.compile(r"https?://(\d{1,3}(?:\.\d{1,3}){3})")
KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(?:ghp|gho|xox[bp])[_-][A-Za-z0-9]{20,}|\bAKIA[0-9A-Z]{16}\b")


def shipped() -> list[Path]:
    """Return the files of the project that somebody gets, without what tests play with."""
    known = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=False)
    if known.returncode != 0:
        pytest.skip("this is no checkout, so it is not known which files are the project's")
    names = [name for name in known.stdout.decode().split("\0") if name and not name.startswith("tests/")]
    return [PROJECT / name for name in names if (PROJECT / name).is_file() and not name.endswith(".lock")]


@pytest.mark.parametrize(
    "line",
    [
        "WORKER_TOKEN: " + "some-literal-token",
        "CALLBACK_BOT_TOKEN=" + "MTIzNDU2Nzg5MDEyMzQ1Njc4OQ",
        "token = " + "0123456789abcdef" * 4,
        "-----BEGIN " + "PRIVATE KEY-----",
    ],
)
def test_the_scan_for_secrets_finds_one(line: str) -> None:
    assert any(pattern.search(line) for pattern in (HEX, KEY, NAMED))


def test_no_file_that_is_shipped_holds_a_secret_or_a_public_address() -> None:
    """R29."""
    found = []
    for path in shipped():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        where = path.relative_to(PROJECT)
        found += [f"{where}: {match[0][:12]}..." for pattern in (HEX, KEY) for match in pattern.finditer(text)]
        if path.suffix not in {
            ".py",
            ".md",
            ".js",
            ".go",
        }:  # code and prose speak about names, files of values set them
            found += [f"{where}: {match[0][:30]}" for match in NAMED.finditer(text)]
        found += [f"{where}: {match[0]}" for match in PUBLIC_ADDRESS.finditer(text) if _is_public(match[1])]
    assert found == []


def _is_public(address: str) -> bool:
    private = ("127.", "10.", "192.168.", "0.0.0.0", "169.254.", "192.0.2.", "198.51.100.", "203.0.113.", "100.64.")
    return not address.startswith(private) and not re.match(r"172\.(1[6-9]|2\d|3[01])\.", address)
