"""The SDK's methods: from a path and a message to the subtask and back to a message."""

from collections.abc import Awaitable, Callable

from clawplane.sdk import wire
from clawplane.sdk.subtask import DEBUG, ERROR, INFO, WARN, Subtask

PACKAGES = ("coresdk", "cafesdk")  # the second is what older generations of SDK files call
TOO_MANY_COLUMNS = 1  # response code; the message says the rest

Method = Callable[[memoryview], Awaitable[bytes]]

_OK = wire.encode_response(0, "ok")


class Methods:
    """What one subtask's SDK can call. Malformed messages raise `wire.WireError`."""

    def __init__(self, subtask: Subtask) -> None:
        self._subtask = subtask
        self._input: bytes | None = None
        named: dict[str, Method] = {
            "Parameter/GetInputJSONString": self._get_input,
            "Result/SetTableHeader": self._set_table_header,
            "Result/PushData": self._push_data,
        }
        for name, level in (("Debug", DEBUG), ("Info", INFO), ("Warn", WARN), ("Error", ERROR)):
            named[f"Log/{name}"] = self._log(level)
        self._by_path = {f"/{package}.{path}": method for package in PACKAGES for path, method in named.items()}

    def find(self, path: str) -> Method | None:
        """Return the method served at a gRPC path."""
        return self._by_path.get(path)

    async def _get_input(self, _message: memoryview) -> bytes:
        if self._input is None:
            self._input = wire.encode_input(0, self._subtask.input_json() or "{}")
        return self._input

    async def _set_table_header(self, message: memoryview) -> bytes:
        try:
            items = wire.decode_table_header(message)
        except wire.TooManyColumnsError as error:
            return wire.encode_response(TOO_MANY_COLUMNS, str(error))
        await self._subtask.set_header(items)
        return _OK

    async def _push_data(self, message: memoryview) -> bytes:
        code, text = await self._subtask.push(wire.decode_text(message))
        return _OK if code == 0 else wire.encode_response(code, text)

    def _log(self, level: int) -> Method:
        async def log(message: memoryview) -> bytes:
            await self._subtask.log(level, wire.decode_text(message))
            return _OK

        return log
