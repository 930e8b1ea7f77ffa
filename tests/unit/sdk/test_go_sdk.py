"""The Go SDK files, unmodified, with the real grpc-go of the distribution in a network namespace of their own."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from sdk_actors import OwnNetwork, RecordedSubtask

from clawplane.sdk.scaffold import scaffold

ROOT = Path(__file__).resolve().parents[3]
LIBRARIES = Path("/usr/share/gocode/src")
NEEDED = ("google.golang.org/grpc", "google.golang.org/protobuf", "github.com/golang/protobuf/proto/wire.go")

pytestmark = pytest.mark.skipif(
    shutil.which("go") is None or not all((LIBRARIES / path).exists() for path in NEEDED),
    reason="the packages that examples/build_go.py names are not installed",
)


def build(project: Path, archive: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "build_go.py"), str(project), str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go sample, built and unpacked as the platform would unpack it."""
    directory = tmp_path_factory.mktemp("go")
    shutil.copytree(ROOT / "tests" / "workers" / "go-source", directory / "source")
    build(directory / "source", directory / "worker.zip")
    with zipfile.ZipFile(directory / "worker.zip") as archive:
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
        archive.extractall(directory / "unpacked")
    assert modes["main"] == 0o100755
    assert set(modes) == {"main", "input_schema.json", "output_schema.json", "README.md"}
    (directory / "unpacked" / "main").chmod(0o755)
    return directory / "unpacked"


async def test_a_static_go_worker_reads_input_and_sends_headers_rows_upserts_and_logs(
    recorded: RecordedSubtask, own_network: OwnNetwork, sample: Path
) -> None:
    recorded.given_input = '{"url": "https://example.com/?a=1&b=<2>", "max_results": 6}'
    code, output = await own_network.run("./main", cwd=sample)
    assert (code, output) == (0, "a line on stdout\n"), output
    rows = [json.loads(row) for row in recorded.rows]
    assert [row["id"].split("#")[-1] for row in rows[:8]] == ["1", "2", "3", "4", "5", "6", "3", "6"]
    assert rows[0]["__coreclaw_upsert_key__"] == "id"
    assert rows[0]["__coreclaw_upsert_value__"] == rows[0]["id"]
    assert rows[8] == {"id": "https://example.com/?a=1&b=<2>", "title": "the last row"}
    assert "<b>&</b>" in recorded.rows[0], "characters of HTML must not be escaped"
    assert [key for _, key, _ in recorded.headers] == ["id", "title", "url"]
    assert recorded.logs == [(2, "input: " + recorded.given_input), (3, "done")]


async def test_a_scaffolded_go_worker_builds_and_runs(
    recorded: RecordedSubtask, own_network: OwnNetwork, tmp_path: Path
) -> None:
    scaffold("go", "lengths", tmp_path / "lengths")
    build(tmp_path / "lengths", tmp_path / "lengths.zip")
    recorded.given_input = '{"items": ["abc", "größe"]}'
    code, output = await own_network.run("./main", cwd=tmp_path / "lengths")
    assert (code, output) == (0, "")
    assert [json.loads(row) for row in recorded.rows] == [{"item": "abc", "length": 3}, {"item": "größe", "length": 5}]


async def test_the_licence_survey_reads_the_copyright_files_of_this_machine(
    recorded: RecordedSubtask, own_network: OwnNetwork, tmp_path: Path
) -> None:
    if not Path("/usr/share/doc/libc6/copyright").exists():
        pytest.skip("this is no Debian with copyright files")
    shutil.copytree(ROOT / "examples" / "go-licence-survey", tmp_path / "survey")
    build(tmp_path / "survey", tmp_path / "survey.zip")
    recorded.given_input = '{"packages": ["libc6", "bash*"]}'
    code, output = await own_network.run("./main", cwd=tmp_path / "survey")
    assert (code, output) == (0, "")
    rows = {row["package"]: row for row in map(json.loads, recorded.rows)}
    assert {"libc6", "bash"} <= set(rows)
    assert any(licence.startswith("LGPL") for licence in rows["libc6"]["licences"])
    assert rows["bash"]["bytes"] == Path("/usr/share/doc/bash/copyright").stat().st_size
    recorded.given_input = '{"packages": ["no-such-package"]}'
    code, output = await own_network.run("./main", cwd=tmp_path / "survey")
    assert (code, output) == (1, "no package matches no-such-package\n")
