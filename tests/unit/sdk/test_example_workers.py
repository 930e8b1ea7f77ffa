"""The Python and Node examples and samples do what their READMEs say, on real input."""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from sdk_actors import OwnNetwork, RecordedSubtask

from clawplane.sdk.scaffold import scaffold

ROOT = Path(__file__).resolve().parents[3]
WORKERS = ROOT / "tests" / "workers"


def rows_of(recorded: RecordedSubtask) -> list[dict[str, Any]]:
    return [json.loads(row) for row in recorded.rows]


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dependencies that every Node Worker here declares, installed once."""
    if shutil.which("npm") is None:
        pytest.skip("Node.js with npm is not installed")
    directory = tmp_path_factory.mktemp("node")
    shutil.copy(ROOT / "examples" / "node-time-zones" / "package.json", directory)
    command = ["npm", "install", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    installed = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=110, check=False)
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install here: {installed.stderr[-300:]}")
    return directory / "node_modules"


async def run_python(own_network: OwnNetwork, directory: Path) -> tuple[int, str]:
    code, output = await own_network.run(sys.executable, "main.py", cwd=directory, env={"PYTHONDONTWRITEBYTECODE": "1"})
    return code, output


async def run_node(own_network: OwnNetwork, source: Path, node_modules: Path, scratch: Path) -> tuple[int, str]:
    shutil.copytree(source, scratch, dirs_exist_ok=True)
    if not (scratch / "node_modules").exists():
        (scratch / "node_modules").symlink_to(node_modules)
    (scratch / "tmp").mkdir()
    code, output = await own_network.run("node", "main.js", cwd=scratch, env={"TMPDIR": str(scratch / "tmp")})
    return code, output


async def test_the_library_survey_counts_what_is_in_the_standard_library(
    recorded: RecordedSubtask, own_network: OwnNetwork
) -> None:
    recorded.given_input = '{"modules": ["json*", "http.server"]}'
    code, output = await run_python(own_network, ROOT / "examples" / "python-library-survey")
    assert (code, output) == (0, "")
    rows = {row["module"]: row for row in rows_of(recorded)}
    assert {"json", "json.decoder", "json.encoder", "http.server"} <= set(rows)
    source = Path(sysconfig.get_paths()["stdlib"], "json", "decoder.py").read_text()
    assert rows["json.decoder"]["lines"] == source.count("\n")
    assert rows["json.decoder"]["classes"] == source.count("\nclass ")
    assert rows["json.decoder"]["__coreclaw_upsert_value__"] == "json.decoder"
    assert len(recorded.headers) == 8
    assert "modules surveyed" in recorded.logs[-1][1]


async def test_the_library_survey_fails_with_a_sentence_when_nothing_matches(
    recorded: RecordedSubtask, own_network: OwnNetwork
) -> None:
    recorded.given_input = '{"modules": ["no.such.module"]}'
    code, _ = await run_python(own_network, ROOT / "examples" / "python-library-survey")
    assert code == 1
    assert recorded.logs[-1] == (4, "no module of the standard library matches no.such.module")


async def test_time_zones_finds_the_changes_of_clocks(
    recorded: RecordedSubtask, own_network: OwnNetwork, node_modules: Path, tmp_path: Path
) -> None:
    zones = ["Europe/Vienna", "Australia/Lord_Howe", "Asia/Tokyo", "Nowhere/Land"]
    recorded.given_input = json.dumps({"zones": zones, "first_year": 2024, "last_year": 2024})
    code, output = await run_node(own_network, ROOT / "examples" / "node-time-zones", node_modules, tmp_path)
    assert (code, output) == (0, "")
    changes = [(row["zone"], row["at"], row["before"], row["after"], row["minutes"]) for row in rows_of(recorded)]
    assert changes == [
        ("Europe/Vienna", "2024-03-31T01:00:00.000Z", "+01:00", "+02:00", 60),
        ("Europe/Vienna", "2024-10-27T01:00:00.000Z", "+02:00", "+01:00", -60),
        ("Australia/Lord_Howe", "2024-04-06T15:00:00.000Z", "+11:00", "+10:30", -30),
        ("Australia/Lord_Howe", "2024-10-05T15:30:00.000Z", "+10:30", "+11:00", 30),
    ]
    assert (4, "there is no time zone called Nowhere/Land") in recorded.logs


async def test_the_sample_that_splits_by_b_reads_one_address_through_the_older_sdk(
    recorded: RecordedSubtask, own_network: OwnNetwork
) -> None:
    recorded.given_input = '{"url": "https://example.com/a?x=1&y=%3Cb%3E"}'
    code, output = await run_python(own_network, WORKERS / "python-split-by-b")
    assert (code, output) == (0, "")
    (row,) = rows_of(recorded)
    assert (row["host"], row["query"], row["secure"]) == ("example.com", {"x": "1", "y": "<b>"}, True)
    assert [key for _, key, _ in recorded.headers] == ["url", "host", "path", "query", "secure"]


async def test_the_sample_that_splits_by_b_replaces_its_headers_when_it_fails(
    recorded: RecordedSubtask, own_network: OwnNetwork
) -> None:
    recorded.given_input = '{"url": "nonsense"}'
    code, output = await run_python(own_network, WORKERS / "python-split-by-b")
    assert code == 1
    assert "ValueError" in output
    assert [label for label, _, _ in recorded.headers] == ["Error", "Error Code", "Status"]
    assert rows_of(recorded)[0]["status"] == "failed"


async def test_the_sample_with_eleven_editors_upserts_every_third_row_again(
    recorded: RecordedSubtask, own_network: OwnNetwork, node_modules: Path, tmp_path: Path
) -> None:
    recorded.given_input = '{"max_results": 7}'
    code, output = await run_node(own_network, WORKERS / "node-eleven-editors", node_modules, tmp_path)
    assert code == 0
    assert sorted(output.splitlines()) == ["a line on stderr", "a line on stdout"]
    assert [row["id"] for row in rows_of(recorded)] == [f"test-{n}" for n in (1, 2, 3, 4, 5, 6, 7, 3, 6)]
    schema = json.loads((WORKERS / "node-eleven-editors" / "input_schema.json").read_text())
    assert len({field["editor"] for field in schema["properties"]}) == 11


async def test_a_scaffolded_python_worker_runs(
    recorded: RecordedSubtask, own_network: OwnNetwork, tmp_path: Path
) -> None:
    scaffold("python", "lengths", tmp_path)
    recorded.given_input = '{"items": ["abc", "größe"]}'
    assert await run_python(own_network, tmp_path) == (0, "")
    assert rows_of(recorded) == [{"item": "abc", "length": 3}, {"item": "größe", "length": 5}]


async def test_a_scaffolded_node_worker_runs(
    recorded: RecordedSubtask, own_network: OwnNetwork, node_modules: Path, tmp_path: Path
) -> None:
    scaffold("node", "lengths", tmp_path / "lengths")
    recorded.given_input = '{"items": ["abc", "größe"]}'
    assert await run_node(own_network, tmp_path / "lengths", node_modules, tmp_path / "run") == (0, "")
    assert rows_of(recorded) == [{"item": "abc", "length": 3}, {"item": "größe", "length": 5}]
