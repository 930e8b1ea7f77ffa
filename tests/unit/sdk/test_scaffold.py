"""What `clawplane init` writes, and that every copy of the SDK files in this repository is that."""

import ast
import json
import os
from pathlib import Path

import pytest

from clawplane.sdk.scaffold import LANGUAGES, ScaffoldError, scaffold

ROOT = Path(__file__).resolve().parents[3]
SCHEMAS = {"input_schema.json", "output_schema.json", "README.md"}
EXPECTED = {
    "python": SCHEMAS | {"main.py", "requirements.txt", "sdk.py", "sdk_pb2.py", "sdk_pb2_grpc.py"},
    "node": SCHEMAS | {"main.js", "package.json", "sdk.js", "sdk_pb.js", "sdk_grpc_pb.js"},
    "go": SCHEMAS | {"main.go", "go.mod", "GoSdk/sdk.go", "GoSdk/sdk.pb.go", "GoSdk/sdk_grpc.pb.go"},
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_worker_has_every_file_of_its_language_and_its_name_in_them(language: str, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "my-worker"
    written = scaffold(language, "my-worker", target)
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert found == EXPECTED[language] == {path.relative_to(target).as_posix() for path in written}
    assert "my-worker" in (target / "README.md").read_text()
    assert all("worker-name" not in path.read_text() for path in written)
    names = {column["name"] for column in json.loads((target / "output_schema.json").read_text())}
    schema = json.loads((target / "input_schema.json").read_text())
    assert names == {"item", "length"}
    assert set(schema["concurrency"]["fields"]) <= {field["name"] for field in schema["properties"]}


def test_the_python_files_are_python_and_node_names_its_entry(tmp_path: Path) -> None:
    for path in scaffold("python", "a", tmp_path / "a"):
        if path.suffix == ".py":
            ast.parse(path.read_text())
    scaffold("node", "b-2", tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "package.json").read_text())
    assert (manifest["name"], manifest["main"], "type" in manifest) == ("b-2", "main.js", False)


def test_nothing_is_overwritten_and_nothing_is_written_beside_what_exists(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("mine")
    (tmp_path / "README.md").symlink_to("/nowhere")
    with pytest.raises(ScaffoldError, match=r"already has README.md, main.py: choose another directory"):
        scaffold("python", "a", tmp_path)
    assert (tmp_path / "main.py").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"main.py", "README.md"}


def test_a_directory_with_other_files_may_take_a_worker(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    scaffold("python", "a", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_unknown_language_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ScaffoldError, match="python, node, go"):
        scaffold("perl", "a", tmp_path)


@pytest.mark.parametrize("name", ["", "My-Worker", "a b", "-a", "a" * 64, "../a", 'a"', "a\n"])
def test_a_name_that_would_not_fit_everywhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ScaffoldError, match="lower case letters, digits and hyphens"):
        scaffold("python", name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ScaffoldError, match=r"cannot write .*file"):
        scaffold("python", "a", tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("worker", "language"),
    [
        ("examples/python-library-survey", "python"),
        ("examples/node-time-zones", "node"),
        ("examples/go-licence-survey", "go"),
        ("tests/workers/python-split-by-b", "python"),
        ("tests/workers/node-eleven-editors", "node"),
        ("tests/workers/go-source", "go"),
    ],
)
def test_the_workers_in_this_repository_carry_unmodified_sdk_files(worker: str, language: str) -> None:
    template = ROOT / "src" / "clawplane" / "sdk" / "templates" / language
    own_generation = {"sdk_pb2.py", "sdk_pb2_grpc.py"} if worker.endswith("split-by-b") else set()  # cafesdk
    sdk_files = [path for path in template.rglob("*") if path.name.startswith("sdk") and path.suffix != ".pyc"]
    assert len(sdk_files) == 3
    for path in sdk_files:
        copy = ROOT / worker / path.relative_to(template)
        assert copy.exists()
        if path.name not in own_generation:
            assert copy.read_bytes() == path.read_bytes(), f"{copy} differs: copy {os.path.relpath(path, ROOT)} over it"
        else:
            assert b"cafesdk" in copy.read_bytes()
