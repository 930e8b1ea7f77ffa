"""E2B's published JavaScript client holds a whole conversation with the real server, runner and sandbox."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "e2b_javascript" / "conversation.mjs"
PACKAGES = ("e2b@^2", "@e2b/code-interpreter@^2")


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the published packages, installed as anybody would."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed: scripts/test_tools.sh installs them")
    directory = tmp_path_factory.mktemp("javascript")
    done = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"npm cannot install the packages here: {done.stderr.strip().splitlines()[-1:]}")
    return directory


def test_the_javascript_client_works_with_three_variables(plane: Any, modules: Path) -> None:
    program = modules / PROGRAM.name
    shutil.copy(PROGRAM, program)
    variables = {"E2B_API_URL": plane.url, "E2B_SANDBOX_URL": plane.url, "E2B_API_KEY": plane.key}
    done = subprocess.run(
        ["node", str(program)],
        env=os.environ | variables,
        cwd=modules,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
