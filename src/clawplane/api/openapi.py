"""Generate the OpenAPI document from the route tables and the msgspec types of the bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from clawplane.api.calls import Operation, Parameter
from clawplane.api.errors import is_native, is_plain

_PLACEHOLDER: Final = re.compile(r"\{(\w+)(:path)?\}")
_REF: Final = "#/components/schemas/{name}"
_STATUSES: Final = {
    "400": "The request is refused; `code` says why.",
    "401": "The key is missing or not known.",
    "404": "There is no such thing.",
    "429": "Too many requests.",
    "500": "A defect, or the database does not answer.",
}
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["code", "message", "request_id"],
    "properties": {
        "code": {"type": "integer"},
        "message": {"type": "string"},
        "request_id": {"type": "string"},
        "details": {"type": ["array", "null"], "items": {"type": "string"}},
        "error": {"type": "string", "description": "A machine code of clawplane's own."},
        "hint": {"type": "string"},
    },
}
_ERROR_CONTENT: Final[dict[str, Any]] = {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}}
_PLAIN_CONTENT: Final[dict[str, Any]] = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["error", "code", "hint", "request_id"],
            "properties": {name: {"type": "string"} for name in ("error", "code", "hint", "request_id")},
        }
    }
}
_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["scraper_file"],
    "properties": {
        "scraper_file": {"type": "string", "format": "binary"},
        "title": {"type": "string"},
        "description": {"type": "string"},
        "categories": {"type": "array", "items": {"type": "integer"}},
        "icon": {"type": "string"},
    },
}


def document(operations: Iterable[Operation], *, version: str) -> dict[str, Any]:
    """Return the document for the published operations."""
    published = [operation for operation in operations if operation.published]
    bodies = [kind for item in published for kind in (item.body, item.data) if kind is not None]
    schemas, components = msgspec.json.schema_components(bodies, ref_template=_REF)
    shapes = {_key(kind): schema for kind, schema in zip(bodies, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for operation in published:
        path = _PLACEHOLDER.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, shapes)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "clawplane",
            "version": version,
            "description": "Workers over the CoreClaw v2 wire, and clawplane's own API under /v1.",
        },
        "security": [{"BearerAuth": []}, {"ApiKeyAuth": []}, {"QueryTokenAuth": []}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {
                "BearerAuth": {"type": "http", "scheme": "bearer"},
                "ApiKeyAuth": {"type": "apiKey", "in": "header", "name": "api-key"},
                "QueryTokenAuth": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    }


def _key(kind: object) -> str:
    return repr(kind)


def _operation(operation: Operation, shapes: dict[str, Any]) -> dict[str, Any]:
    inputs = [*_path_parameters(operation), *map(_query_parameter, operation.query)]
    described: dict[str, Any] = {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": _responses(operation, shapes, has_input=bool(inputs or operation.body)),
    }
    if inputs:
        described["parameters"] = inputs
    if operation.scope is None:
        described["security"] = []
    content = _request_content(operation, shapes)
    if content:
        described["requestBody"] = {"required": operation.body_required, "content": content}
    return described


def _request_content(operation: Operation, shapes: dict[str, Any]) -> dict[str, Any]:
    content = {}
    if operation.body is not None:
        content["application/json"] = {"schema": shapes[_key(operation.body)]}
    if operation.upload:
        form = _FORM
        if is_native(operation.path):
            names = {"name": {"type": "string"}, "version": {"type": "string"}}
            form = {**_FORM, "properties": {**_FORM["properties"], **names}}
        content["multipart/form-data"] = {"schema": form}
    return content


def _responses(operation: Operation, shapes: dict[str, Any], *, has_input: bool) -> dict[str, Any]:
    if operation.media != "application/json":
        good: dict[str, Any] = {"description": "success", "content": {operation.media: {"schema": {"type": "string"}}}}
    else:
        good = {"description": "success", "content": {"application/json": {"schema": _envelope(operation, shapes)}}}
    if not operation.offered:
        refusal = {"501": {"description": "This release does not offer the operation.", "content": _ERROR_CONTENT}}
        return refusal | {"401": {"description": _STATUSES["401"], "content": _ERROR_CONTENT}}
    failures = _STATUSES | ({"422": "The request has the wrong shape or range."} if has_input else {})
    content = _PLAIN_CONTENT if is_plain(operation.path) else _ERROR_CONTENT
    return {"200": good} | {
        status: {"description": text, "content": content} for status, text in sorted(failures.items())
    }


def _envelope(operation: Operation, shapes: dict[str, Any]) -> dict[str, Any]:
    if operation.path == "/healthz" or (is_plain(operation.path) and operation.data is not None):
        return dict(shapes[_key(operation.data)])
    properties: dict[str, Any] = {
        "code": {"type": "integer", "const": 0},
        "message": {"type": "string"},
        "request_id": {"type": "string"},
    }
    if operation.data is not None:
        properties["data"] = shapes[_key(operation.data)]
    return {"type": "object", "required": [*properties], "properties": properties}


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": match[1], "in": "path", "required": True, "schema": {"type": "string"}}
        for match in _PLACEHOLDER.finditer(operation.path)
    ]


def _query_parameter(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": parameter.kind}
    for key, value in (
        ("default", parameter.default),
        ("minimum", parameter.minimum),
        ("maximum", parameter.maximum),
        ("enum", list(parameter.choices) or None),
    ):
        if value is not None:
            schema[key] = value
    return {"name": parameter.name, "in": "query", "description": parameter.description, "schema": schema}
