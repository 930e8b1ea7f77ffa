"""The Node SDK files, unmodified, with the real @grpc/grpc-js in a network namespace of their own."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from sdk_actors import OwnNetwork, RecordedSubtask

from clawplane.sdk.subtask import PushOutcome

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js with npm is not installed")

TEMPLATE = Path(__file__).resolve().parents[3] / "src" / "clawplane" / "sdk" / "templates" / "node"
SDK_FILES = ("sdk.js", "sdk_pb.js", "sdk_grpc_pb.js", "package.json")


@pytest.fixture(scope="module")
def node_sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SDK files with their dependencies installed as an environment build would."""
    directory = tmp_path_factory.mktemp("node")
    for name in SDK_FILES:
        shutil.copy(TEMPLATE / name, directory / name)
    command = ["npm", "install", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    installed = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=110, check=False)
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install here: {installed.stderr[-300:]}")
    return directory


async def run(own_network: OwnNetwork, directory: Path, program: str) -> str:
    wrapped = f"const {{ parameter, result, log }} = require('./sdk');\n(async () => {{\n{program}\n}})();\n"
    (directory / "main.js").write_text(wrapped)
    code, output = await own_network.run("node", "main.js", cwd=directory)
    assert code == 0, output
    return str(output)


async def test_input_headers_rows_and_logs_of_a_node_worker_arrive(
    recorded: RecordedSubtask, own_network: OwnNetwork, node_sdk: Path
) -> None:
    recorded.given_input = '{"name": "Zürich & <b>"}'
    program = """
    console.log(await parameter.getInputJSONString());
    console.log((await parameter.getInputJSONObject()).name);
    await result.pushData({ first: 'a row' });
    await result.setTableHeader([{ label: 'Ä', key: 'b', format: 'text' }, { key: 'a' }]);
    for (let n = 0; n < 100; n++) await result.pushData({ n, 'é': null });
    for (const level of ['debug', 'info', 'warn', 'error']) await log[level](level + '\\nsecond line');
    """
    assert await run(own_network, node_sdk, program) == recorded.given_input + "\nZürich & <b>\n"
    assert recorded.headers == [("Ä", "b", "text"), ("", "a", "")]
    assert [json.loads(row) for row in recorded.rows] == [
        {"first": "a row"},
        *({"n": n, "é": None} for n in range(100)),
    ]
    levels = ("debug", "info", "warn", "error")
    assert recorded.logs == [(number, f"{level}\nsecond line") for number, level in enumerate(levels, 1)]


async def test_a_thousand_rows_pushed_without_waiting_arrive_in_order(
    recorded: RecordedSubtask, own_network: OwnNetwork, node_sdk: Path
) -> None:
    program = "await Promise.all(Array.from({ length: 1000 }, (_, n) => result.pushData({ n, text: 'x'.repeat(n) })));"
    await run(own_network, node_sdk, program)
    assert [json.loads(row)["n"] for row in recorded.rows] == list(range(1000))


async def test_large_rows_and_a_large_input_cross_the_flow_control_windows(
    recorded: RecordedSubtask, own_network: OwnNetwork, node_sdk: Path
) -> None:
    recorded.given_input = json.dumps({"text": "x" * (10 << 20)})
    program = """
    const { text } = await parameter.getInputJSONObject();
    await Promise.all([1, 2, 3].map((n) => result.pushData({ n, text })));
    """
    await run(own_network, node_sdk, program)
    assert [len(json.loads(row)["text"]) for row in recorded.rows] == [10 << 20] * 3


async def test_a_row_above_the_limit_rejects_with_resource_exhausted(
    recorded: RecordedSubtask, own_network: OwnNetwork, node_sdk: Path
) -> None:
    program = """
    await result.pushData({ text: 'x'.repeat(65 << 20) }).catch((error) => console.log(error.code));
    await result.pushData({ after: 1 });
    """
    assert await run(own_network, node_sdk, program) == "8\n"
    assert recorded.rows == ['{"after":1}']


async def test_a_refused_row_rejects_with_its_message(
    recorded: RecordedSubtask, own_network: OwnNetwork, node_sdk: Path
) -> None:
    recorded.outcome = PushOutcome(7, "the run has reached its row limit")
    program = "await result.pushData({}).catch((error) => console.log(error.message));"
    assert await run(own_network, node_sdk, program) == "the run has reached its row limit\n"


async def test_upserts_carry_the_reserved_members_and_bad_keys_reject(
    recorded: RecordedSubtask, own_network: OwnNetwork, node_sdk: Path
) -> None:
    program = """
    await result.upsertData({ id: true, x: 1.0 }, 'id');
    for (const [row, key] of [[{ a: 1 }, ''], [{ a: 1 }, undefined], [{ a: 1 }, 'b'], [null, 'a'], [{}, 'toString']]) {
      await result.upsertData(row, key).catch(() => console.log('refused'));
    }
    """
    assert await run(own_network, node_sdk, program) == "refused\n" * 5
    reserved = {"__coreclaw_upsert_key__": "id", "__coreclaw_upsert_value__": "true"}
    assert [json.loads(row) for row in recorded.rows] == [{"id": True, "x": 1, **reserved}]
