"""The page of the HTTP API, from the same document that the server shows at /openapi.json."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import clawplane
from clawplane.api import openapi
from clawplane.api.coreclaw import routes as coreclaw
from clawplane.api.metrics import Metrics
from clawplane.api.native import routes as native

INTRODUCTION = """# HTTP API

Paths under `/api/v2` are the CoreClaw wire, those under `/v1` clawplane's own. Send a key as
`Authorization: Bearer KEY`, `api-key: KEY` or `?token=KEY`. Every answer but streams and files is
`{"code": 0, "message": "success", "request_id": "...", "data": ...}`; refusals are in [errors](errors.md). The server
shows this as a document for machines at `/openapi.json`.
"""


def http_page() -> str:
    """Return every published operation with what it takes and gives, and every shape they name."""
    table = [*coreclaw.operations(), *native.operations(Metrics())]
    scopes = {operation.operation_id: operation.scope for operation in table}
    document = openapi.document(table, version=clawplane.__version__)
    operations = [
        (described["tags"][0], method.upper(), path, described)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
    ]
    lines = [INTRODUCTION]
    operations.sort(key=lambda operation: operation[0])
    for tag, members in groupby(operations, key=lambda operation: operation[0]):
        lines.append(f"## {tag}\n")
        for _, method, path, described in members:
            scope = scopes[described["operationId"]]
            lines += _operation(method, path, described, scope.value if scope else None)
    lines.append("## Shapes\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _shape(name, schema)
    return "\n".join(lines).rstrip() + "\n"


def _operation(method: str, path: str, described: dict[str, Any], scope: str | None) -> list[str]:
    needs = f"Needs a key with `{scope}`." if scope else "Needs no key."
    lines = [f"### {method} `{path}`\n", f"{described['summary']}. {needs} (`{described['operationId']}`)\n"]
    queries = [one for one in described.get("parameters", []) if one["in"] == "query"]
    if queries:
        lines += ["| query | type | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{one['name']}` | {_kind(one['schema'])} | {one['schema'].get('default', '')} | {one['description']} |"
            for one in queries
        ]
        lines.append("")
    for media, content in described.get("requestBody", {}).get("content", {}).items():
        lines.append(f"Body: `{media}`, {_kind(content['schema'])}.\n")
    good = [answer for status, answer in described["responses"].items() if status.startswith("2")]
    if not good:
        lines.append("This release does not offer it and answers 501.\n")
    for media, content in (good[0]["content"] if good else {}).items():
        schema = content["schema"]
        data = schema.get("properties", {}).get("data", {} if "properties" in schema else schema)
        gives = _kind(data) if data else "no data"
        lines.append(f"Gives: {gives}.\n" if media == "application/json" else f"Gives: `{media}`.\n")
    return lines


def _shape(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"### {name}\n"]
    if about := schema.get("description"):
        lines.append(f"{about}\n")
    members = schema.get("properties", {})
    if members:
        required = set(schema.get("required", []))
        lines += ["| member | type | |", "| --- | --- | --- |"]
        lines += [
            f"| `{member}` | {_kind(kind)} | {'' if member in required else 'optional'} |"
            for member, kind in members.items()
        ]
        lines.append("")
    elif "enum" in schema:
        lines.append(f"{_kind(schema)}\n")
    return lines


def _kind(schema: dict[str, Any]) -> str:
    """Return a schema in a word or two."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array of {_kind(schema.get('items', {}))}"
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "object" and "properties" in schema:
        return "form with " + ", ".join(f"`{name}`" for name in schema["properties"])
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return " ".join([str(kind), *bounds])
