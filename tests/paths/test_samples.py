"""The three official-style sample layouts and our own examples run unmodified, in the languages they are written in."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SAMPLES = PROJECT / "tests" / "workers"
EXAMPLES = PROJECT / "examples"


@pytest.fixture(scope="module")
def go_packer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_go", EXAMPLES / "build_go.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_go"] = module
    spec.loader.exec_module(module)
    return module


def _built(packer: ModuleType, source: Path, directory: Path) -> Path:
    project = directory / source.name
    shutil.copytree(source, project)
    packer.build(project)
    return Path(packer.pack(project, directory / f"{source.name}.zip"))


def test_a_python_worker_split_by_b_runs_once_for_each_address(plane: Any) -> None:
    pushed = plane.json("workers", "push", str(SAMPLES / "python-split-by-b"))
    assert pushed["status"] == "ready", pushed
    run = plane.run(pushed["path"], url=[{"url": "https://a.example/x?y=1"}, {"url": "http://b.example/"}])
    assert (run["status"], run["results"]) == ("succeeded", 2)
    assert sorted((row["host"], row["secure"]) for row in plane.rows(run["slug"])) == [
        ("a.example", True),
        ("b.example", False),
    ]


def test_a_node_worker_with_eleven_editors_upserts_to_as_many_rows_as_asked_for(plane: Any) -> None:
    pushed = plane.json("workers", "push", str(SAMPLES / "node-eleven-editors"))
    assert pushed["status"] == "ready", pushed
    run = plane.run(pushed["path"], max_results=12)
    assert (run["status"], run["results"]) == ("succeeded", 12), plane.log(run["slug"])
    titles = [row["title"] for row in plane.rows(run["slug"])]
    assert titles[2] == "Title 3, second edition"
    log = plane.log(run["slug"])
    assert "a line on stdout" in log
    assert "a line on stderr" in log


def test_a_go_binary_pushes_and_upserts(plane: Any, go_packer: ModuleType, tmp_path: Path) -> None:
    package = _built(go_packer, SAMPLES / "go-source", tmp_path)
    pushed = plane.json("workers", "push", str(package))
    assert pushed["status"] == "ready", pushed
    run = plane.run(pushed["path"], urls=[{"url": "https://a.example"}], max_results=6)
    assert (run["status"], run["results"]) == ("succeeded", 7), plane.log(run["slug"])


@pytest.mark.parametrize("name", ["python-library-survey", "node-time-zones"])
def test_an_example_finds_something_on_this_machine(plane: Any, name: str) -> None:
    pushed = plane.json("workers", "push", str(EXAMPLES / name))
    assert pushed["status"] == "ready", pushed
    run = plane.run(pushed["path"])
    assert run["status"] == "succeeded", plane.log(run["slug"])
    assert run["results"] > 10


def test_the_go_example_finds_something_on_this_machine(plane: Any, go_packer: ModuleType, tmp_path: Path) -> None:
    pushed = plane.json("workers", "push", str(_built(go_packer, EXAMPLES / "go-licence-survey", tmp_path)))
    assert pushed["status"] == "ready", pushed
    run = plane.run(pushed["path"])
    assert run["status"] == "succeeded", plane.log(run["slug"])
    assert run["results"] > 0


@pytest.mark.parametrize("language", ["python", "node"])
def test_a_scaffolded_worker_runs_as_it_is(plane: Any, tmp_path: Path, language: str) -> None:
    name = f"scaffolded-{language}"
    made = subprocess.run(
        [str(Path(sys.executable).with_name("clawplane")), "init", language, name],
        cwd=tmp_path,
        env=plane.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    pushed = plane.json("workers", "push", str(tmp_path / name))
    assert pushed["status"] == "ready", pushed
    run = plane.run(pushed["path"])
    assert run["status"] == "succeeded", plane.log(run["slug"])
    assert run["results"] > 0
