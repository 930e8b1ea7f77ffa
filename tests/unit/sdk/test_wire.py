"""The messages encoded by hand are those of the generated code, byte for byte."""

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawplane.sdk import wire

TEMPLATE = Path(__file__).resolve().parents[3] / "src" / "clawplane" / "sdk" / "templates" / "python" / "sdk_pb2.py"


def load_generated() -> Any:
    """Load the generated module once per process: descriptors may be registered only once."""
    if "generated_sdk_pb2" not in sys.modules:
        spec = importlib.util.spec_from_file_location("generated_sdk_pb2", TEMPLATE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["generated_sdk_pb2"] = module
    return sys.modules["generated_sdk_pb2"]


pb = load_generated()
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(st.integers(-(2**31), 2**31 - 1), text)
def test_responses_and_inputs_are_encoded_as_protobuf_does(code: int, message: str) -> None:
    assert wire.encode_response(code, message) == pb.Response(code=code, message=message).SerializeToString()
    expected = pb.InputJSONStringResponse(code=code, jsonString=message).SerializeToString()
    assert wire.encode_input(code, message) == expected


@given(text)
def test_rows_and_logs_are_decoded_as_protobuf_does(content: str) -> None:
    assert wire.decode_text(memoryview(pb.Data(jsonString=content).SerializeToString())) == content
    assert wire.decode_text(memoryview(pb.LogBody(log=content).SerializeToString())) == content


@given(st.lists(st.tuples(text, text, text), max_size=8))
def test_table_headers_are_decoded_as_protobuf_does(columns: list[tuple[str, str, str]]) -> None:
    items = [pb.TableHeaderItem(label=label, key=key, format=kind) for label, key, kind in columns]
    encoded = pb.TableHeader(headers=items).SerializeToString()
    assert wire.decode_table_header(memoryview(encoded)) == columns


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(content: bytes) -> None:
    for decode in (wire.decode_text, wire.decode_table_header):
        with contextlib.suppress(wire.WireError):
            decode(memoryview(content))


def test_unknown_fields_of_every_kind_are_stepped_over() -> None:
    stray = b"\x10\x96\x01" + b"\x1d1234" + b"\x2112345678" + b"\x2a\x02hi"
    assert wire.decode_text(memoryview(stray + b"\x0a\x03row" + stray)) == "row"


def test_the_last_of_repeated_fields_wins_as_in_proto3() -> None:
    assert wire.decode_text(memoryview(b"\x0a\x03old\x0a\x03new")) == "new"


def test_a_header_with_too_many_columns_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(wire.TooManyColumnsError, match="more than 4096 columns"):
        wire.decode_table_header(memoryview(b"\x0a\x00" * 2_000_000))
    assert len(wire.decode_table_header(memoryview(b"\x0a\x00" * 4096))) == 4096


def test_the_generated_files_need_no_newer_runtime_than_promised() -> None:
    source = TEMPLATE.read_text()
    assert "Protobuf Python Version: 6.31.1" in source
    assert "GRPC_GENERATED_VERSION = '1.80.0'" in TEMPLATE.with_name("sdk_pb2_grpc.py").read_text()
