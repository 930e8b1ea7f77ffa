"""Turn MIME bundles into E2B results: one member per format."""

from __future__ import annotations

from typing import Any, Final

_SLOTS: Final = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
}
_TABLE: Final = "application/vnd.dataresource+json"


def result_of(bundle: dict[str, Any]) -> dict[str, Any]:
    """Return one result; formats without a member of their own are in `extra` under their MIME type."""
    result: dict[str, Any] = {"type": "result", "is_main_result": bundle.get("_main") is True}
    extra: dict[str, Any] = {}
    for mime, value in bundle.items():
        if mime in _SLOTS:
            result[_SLOTS[mime]] = value
        elif not mime.startswith("_"):
            extra[mime] = value
    columns = _columns(bundle.get(_TABLE))
    if columns is not None:
        result["data"] = columns
    if extra:
        result["extra"] = extra
    return result


def _columns(table: Any) -> dict[str, list[Any]] | None:
    """Return a table's columns by name; what a guest says of itself may have any shape."""
    if not isinstance(table, dict) or not isinstance(table.get("schema"), dict):
        return None
    fields, rows = table["schema"].get("fields"), table.get("data")
    if not isinstance(fields, list) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    names = [field.get("name") for field in fields if isinstance(field, dict)]
    return {name: [row.get(name) for row in rows] for name in names if isinstance(name, str)}
