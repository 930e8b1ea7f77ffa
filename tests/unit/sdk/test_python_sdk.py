"""The Python SDK files, unmodified, with the real grpcio client in a network namespace of their own."""

import json
import sys
from pathlib import Path

import pytest
from sdk_actors import OwnNetwork, RecordedSubtask

from clawplane.sdk.subtask import PushOutcome

pytest.importorskip("grpc", reason="grpcio comes with the dev extra")


async def run(own_network: OwnNetwork, directory: Path, program: str) -> str:
    (directory / "main.py").write_text("import json\nfrom sdk import CoreSDK, CafeSDK\n" + program)
    code, output = await own_network.run(sys.executable, "main.py", cwd=directory)
    assert code == 0, output
    return str(output)


async def test_the_input_arrives_as_text_and_as_a_dict_as_often_as_asked(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    recorded.given_input = '{"url": "https://a/?x=1&y=2", "big": 12345678901234567890, "name": "Zürich"}'
    output = await run(
        own_network,
        python_sdk,
        "print(CoreSDK.Parameter.get_input_json_str())\n"
        "print(json.dumps([CafeSDK.Parameter.get_input_json_dict() for _ in range(3)]))",
    )
    text, parsed = output.splitlines()
    assert text == recorded.given_input
    assert json.loads(parsed) == [json.loads(recorded.given_input)] * 3


async def test_an_empty_input_is_an_empty_object(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    recorded.given_input = ""
    assert await run(own_network, python_sdk, "print(CoreSDK.Parameter.get_input_json_dict())") == "{}\n"


async def test_a_large_input_crosses_the_flow_control_windows(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    recorded.given_input = json.dumps({"text": "x" * (20 << 20)})
    program = "print(len(CoreSDK.Parameter.get_input_json_dict()['text']))"
    assert await run(own_network, python_sdk, program) == f"{20 << 20}\n"


async def test_rows_arrive_in_order_and_unchanged(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    program = "for n in range(500):\n    assert CoreSDK.Result.push_data({'n': n, 'é': '<&>'}).code == 0"
    await run(own_network, python_sdk, program)
    assert recorded.rows == [json.dumps({"n": n, "é": "<&>"}, ensure_ascii=False) for n in range(500)]


async def test_a_row_of_thirty_megabytes_arrives_whole(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    await run(own_network, python_sdk, "CoreSDK.Result.push_data({'text': 'x' * (30 << 20)})")
    assert len(json.loads(recorded.rows[0])["text"]) == 30 << 20


async def test_a_row_above_the_limit_fails_with_resource_exhausted_and_the_channel_lives_on(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    program = """
import grpc
for _ in range(2):
    try:
        CoreSDK.Result.push_data({"text": "x" * (65 << 20)})
    except grpc.RpcError as error:
        print(error.code().name, error.details())
CoreSDK.Result.push_data({"after": 1})
"""
    output = await run(own_network, python_sdk, program)
    assert output.count("RESOURCE_EXHAUSTED a message of 681574") == 2
    assert recorded.rows == ['{"after": 1}']


async def test_headers_keep_order_and_unknown_formats_and_the_last_call_wins(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    program = """
CoreSDK.Result.push_data({"first": "a row"})
CoreSDK.Result.set_table_header([{"label": "Old", "key": "old", "format": "text"}])
r = CoreSDK.Result.set_table_header([{"label": "Ä", "key": "b", "format": "weird"}, {"label": "", "key": "a"}])
print(r.code, r.message)
"""
    assert await run(own_network, python_sdk, program) == "0 ok\n"
    assert recorded.headers == [("Ä", "b", "weird"), ("", "a", "")]


async def test_four_log_levels_arrive_with_their_newlines(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    program = "for name in ('debug', 'info', 'warn', 'error'):\n    getattr(CoreSDK.Log, name)(name + '\\nsecond line')"
    await run(own_network, python_sdk, program)
    names = ("debug", "info", "warn", "error")
    assert recorded.logs == [(level, f"{name}\nsecond line") for level, name in enumerate(names, 1)]


async def test_a_refused_row_returns_its_code_and_does_not_raise(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    recorded.outcome = PushOutcome(7, "the run has reached its row limit")
    output = await run(own_network, python_sdk, "r = CoreSDK.Result.push_data({})\nprint(r.code, r.message)")
    assert output == "7 the run has reached its row limit\n"


async def test_a_platform_failure_raises_in_the_worker_without_telling_it_why(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorded.failure = RuntimeError("the disk at /secret is full")
    program = """
import grpc
try:
    CoreSDK.Result.push_data({})
except grpc.RpcError as error:
    print(error.code().name, error.details())
"""
    output = await run(own_network, python_sdk, program)
    assert output == "INTERNAL the platform could not serve this call\n"
    assert "the disk at /secret is full" in caplog.text


async def test_an_upsert_adds_the_two_reserved_members_and_leaves_the_row_alone(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    program = "row = {'id': True, 'x': 1.0}\nCoreSDK.Result.upsert_data(row, 'id')\nprint(row)"
    assert await run(own_network, python_sdk, program) == "{'id': True, 'x': 1.0}\n"
    reserved = {"__coreclaw_upsert_key__": "id", "__coreclaw_upsert_value__": "True"}
    assert json.loads(recorded.rows[0]) == {"id": True, "x": 1.0, **reserved}


async def test_an_upsert_without_its_key_raises_value_error_and_sends_nothing(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    program = """
for row, key in (({"a": 1}, ""), ({"a": 1}, None), ({"a": 1}, "b"), ([], "a")):
    try:
        CoreSDK.Result.upsert_data(row, key)
    except ValueError:
        print("refused")
"""
    assert await run(own_network, python_sdk, program) == "refused\n" * 4
    assert recorded.rows == []


async def test_a_row_that_was_encoded_twice_arrives_as_it_was_sent(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    await run(own_network, python_sdk, "CoreSDK.Result.push_data(json.dumps({'a': 1}))")
    assert recorded.rows == ['"{\\"a\\": 1}"']


async def test_many_threads_of_a_worker_lose_no_row(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    program = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(50) as pool:
    assert all(r.code == 0 for r in pool.map(lambda n: CoreSDK.Result.push_data({"n": n}), range(2000)))
"""
    await run(own_network, python_sdk, program)
    assert sorted(json.loads(row)["n"] for row in recorded.rows) == list(range(2000))


async def test_several_large_rows_at_once_take_turns_and_all_arrive(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    program = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(6) as pool:
    rows = pool.map(lambda n: CoreSDK.Result.push_data({"n": n, "text": "x" * (25 << 20)}), range(6))
    assert all(r.code == 0 for r in rows)
"""
    await run(own_network, python_sdk, program)
    assert sorted(json.loads(row)["n"] for row in recorded.rows) == list(range(6))


async def test_workers_of_the_older_generation_call_the_same_methods_as_cafesdk(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    program = """
import grpc, sdk_pb2
from google.protobuf.empty_pb2 import Empty
channel = grpc.insecure_channel("127.0.0.1:20086")
def call(path, request, answer):
    return channel.unary_unary(path, type(request).SerializeToString, answer.FromString)(request)
print(call("/cafesdk.Parameter/GetInputJSONString", Empty(), sdk_pb2.InputJSONStringResponse).jsonString)
header = sdk_pb2.TableHeader(headers=[sdk_pb2.TableHeaderItem(key="k")])
assert call("/cafesdk.Result/SetTableHeader", header, sdk_pb2.Response).message == "ok"
call("/cafesdk.Result/PushData", sdk_pb2.Data(jsonString="{}"), sdk_pb2.Response)
for name in ("Debug", "Info", "Warn", "Error"):
    call("/cafesdk.Log/" + name, sdk_pb2.LogBody(log=name), sdk_pb2.Response)
"""
    assert await run(own_network, python_sdk, program) == '{"a": 1}\n'
    assert recorded.headers == [("", "k", "")]
    assert recorded.rows == ["{}"]
    assert recorded.logs == [(1, "Debug"), (2, "Info"), (3, "Warn"), (4, "Error")]


async def test_unknown_methods_and_compressed_messages_are_unimplemented(
    own_network: OwnNetwork, python_sdk: Path
) -> None:
    program = """
import grpc, sdk_pb2
gzip = [("grpc.default_compression_algorithm", 2)]
for path, options in (("/coresdk.Result/Bulk", []), ("/coresdk.Result/PushData", gzip)):
    try:
        channel = grpc.insecure_channel("127.0.0.1:20086", options=options)
        channel.unary_unary(path, sdk_pb2.Data.SerializeToString)(sdk_pb2.Data(jsonString="x" * 5000))
    except grpc.RpcError as error:
        print(error.code().name, error.details())
"""
    assert (await run(own_network, python_sdk, program)).splitlines() == [
        "UNIMPLEMENTED the SDK has no method /coresdk.Result/Bulk",
        "UNIMPLEMENTED compressed messages are not supported: send them as they are",
    ]


async def test_rows_that_a_worker_sent_just_before_it_was_killed_are_served(
    recorded: RecordedSubtask, own_network: OwnNetwork, python_sdk: Path
) -> None:
    program = """
import os, signal, grpc, sdk_pb2, threading
channel = grpc.insecure_channel("127.0.0.1:20086")
push = channel.unary_unary("/coresdk.Result/PushData", sdk_pb2.Data.SerializeToString)
calls = [push.future(sdk_pb2.Data(jsonString=str(n))) for n in range(20)]
calls[-1].result()
os.kill(os.getpid(), signal.SIGKILL)
"""
    (python_sdk / "main.py").write_text(program)
    code, _ = await own_network.run(sys.executable, "main.py", cwd=python_sdk)
    assert code == -9
    assert sorted(recorded.rows, key=int) == [str(n) for n in range(20)]
