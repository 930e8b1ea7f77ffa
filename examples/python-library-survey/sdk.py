"""The CoreClaw Worker SDK for Python: input, result rows, table header and log of the run this program belongs to.

    from sdk import CoreSDK

    options = CoreSDK.Parameter.get_input_json_dict()
    CoreSDK.Result.set_table_header([{"label": "Title", "key": "title", "format": "text"}])
    CoreSDK.Result.push_data({"title": "A row"})
    CoreSDK.Log.info("done")

All calls are synchronous. `CafeSDK` is the older name of `CoreSDK`.
"""

import json

import grpc
from google.protobuf.empty_pb2 import Empty

import sdk_pb2
import sdk_pb2_grpc

_MAX_MESSAGE = 64 * 1024 * 1024

_channel = grpc.insecure_channel(
    "127.0.0.1:20086",
    options=[("grpc.max_receive_message_length", _MAX_MESSAGE), ("grpc.max_send_message_length", -1)],
)
_parameter = sdk_pb2_grpc.ParameterStub(_channel)
_result = sdk_pb2_grpc.ResultStub(_channel)
_log = sdk_pb2_grpc.LogStub(_channel)


class Parameter:
    """The input of this run."""

    @staticmethod
    def get_input_json_str() -> str:
        """Return the input object as JSON text."""
        return _parameter.GetInputJSONString(Empty()).jsonString

    @staticmethod
    def get_input_json_dict() -> dict:
        """Return the input object, `{}` when there is none."""
        return json.loads(Parameter.get_input_json_str() or "{}")


class Result:
    """The rows this run produces."""

    @staticmethod
    def set_table_header(headers: list):
        """Name the columns: a list of {"label", "key", "format"}; the last call wins, before or after rows."""
        items = [
            sdk_pb2.TableHeaderItem(
                label=str(header.get("label", "")),
                key=str(header.get("key", "")),
                format=str(header.get("format", "")),
            )
            for header in headers
        ]
        return _result.SetTableHeader(sdk_pb2.TableHeader(headers=items))

    @staticmethod
    def push_data(obj: dict):
        """Append one row."""
        return _result.PushData(sdk_pb2.Data(jsonString=json.dumps(obj, ensure_ascii=False)))

    @staticmethod
    def upsert_data(obj: dict, unique_key: str):
        """Append one row, or update the one that was upserted with the same value under `unique_key`."""
        if not isinstance(unique_key, str) or not unique_key:
            raise ValueError("upsert_data needs the name of a unique key")
        if not isinstance(obj, dict) or unique_key not in obj:
            raise ValueError(f"upsert_data: the row has no key {unique_key!r}")
        row = dict(obj)
        row["__coreclaw_upsert_key__"] = unique_key
        row["__coreclaw_upsert_value__"] = str(obj[unique_key])
        return Result.push_data(row)


class Log:
    """The log of this run."""

    @staticmethod
    def debug(log: str):
        """Append a line of level debug."""
        return _log.Debug(sdk_pb2.LogBody(log=str(log)))

    @staticmethod
    def info(log: str):
        """Append a line of level info."""
        return _log.Info(sdk_pb2.LogBody(log=str(log)))

    @staticmethod
    def warn(log: str):
        """Append a line of level warning."""
        return _log.Warn(sdk_pb2.LogBody(log=str(log)))

    @staticmethod
    def error(log: str):
        """Append a line of level error."""
        return _log.Error(sdk_pb2.LogBody(log=str(log)))


class CoreSDK:
    """Everything a Worker can say to its platform."""

    Parameter = Parameter
    Result = Result
    Log = Log


CafeSDK = CoreSDK
