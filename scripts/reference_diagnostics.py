"""The diagnostics page: every code from the checks' own sources, with its severity there and its meaning here.

The codes and severities are read from the syntax of the modules that give them; what each means stands below. A code
without a meaning, or a meaning without a code, is an error: the page cannot fall behind.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from clawplane.domain.packages import FATAL_CODES

MODULES = ("archives", "zip_directory", "packages", "schema_checks", "source_checks")
SEVERITIES = ("error", "warn", "info")
PREFIXES = (
    "package_",
    "missing_",
    "required_",
    "multiple_",
    "node_",
    "go_",
    "python_",
    "protobuf_",
    "http_",
    "browser_",
    "axios_",
    "hardcoded_",
    "camoufox_",
    "upsert_",
    "push_",
    "source_",
    "input_",
    "output_",
)
CODE = re.compile(r"[a-z]+(_[a-z0-9]+)+")
FORMATTED = {
    "input_property_missing_{}": ("title", "type", "editor", "description", "required"),
    "input_schema_concurrency_{}_invalid": ("fields", "remove_fields"),
}
"""Codes that are put together, with what stands in the gap."""

MEANINGS = {
    "The archive": {
        "package_empty": "has no bytes, or no member that is a file",
        "package_not_a_zip": "is no ZIP file",
        "package_truncated": "begins like a ZIP file and has no end",
        "package_damaged": "contradicts itself, or its data does not match its checksums",
        "package_too_large": "is larger than the limit",
        "package_too_many_members": "has more members than the limit",
        "package_bomb": "expands beyond the limit, beyond any sensible ratio, or beyond what it announces",
        "package_encrypted": "has an encrypted member",
        "package_compression_unsupported": "has a member in a method other than deflate or stored",
        "package_path_traversal": "has a name that leads out of the package",
        "package_path_absolute": "has a name that is an absolute path",
        "package_path_backslash": "has a name with a backslash",
        "package_path_invalid": "has a name that is empty or holds control characters",
        "package_path_too_long": "has a name that is too long or too deep",
        "package_symlink": "has a symbolic link",
        "package_special_file": "has a device, socket or pipe",
        "package_duplicate_member": "names one place twice",
        "package_case_collision": "has names that differ by letter case only",
        "package_path_conflict": "has a name that is a file and a directory",
        "package_overlapping_members": "stores members in the same bytes",
        "package_file_too_large": "has a manifest or schema that is larger than what is read",
        "package_size_exceeds_threshold": "is larger than advised",
    },
    "Files": {
        "missing_required_file": "an entry or the input schema is nowhere in the package",
        "missing_output_schema": "there is no output schema",
        "missing_readme": "there is no README",
        "required_file_case_mismatch": "the right name in the wrong letter case",
        "multiple_entry_files": "more than one language has an entry",
        "package_entry_nested": "one directory wraps everything",
        "package_missing_required_root_entry": "a required file is there, and not at the root",
        "package_missing_recommended_root_entry": "a file that most Workers need is not at the root",
        "package_go_source_without_binary": "main.go without the binary `main`",
        "package_go_main_not_executable": "`main` without its execute bit",
        "package_go_main_not_elf": "`main` is no 64-bit Linux program for amd64",
    },
    "Dependencies": {
        "missing_runtime_dependency": "a library that the SDK needs is not declared",
        "python_dependency_not_declared": "a module is imported and not declared",
        "node_dependency_not_declared": "a module is required and not declared",
        "go_missing_module_checksum": "go.sum lacks a checksum",
        "protobuf_version_not_pinned": "protobuf without `==`",
        "missing_socks_proxy_dependency": "a SOCKS proxy is used without the library for it",
        "camoufox_playwright_not_pinned": "Camoufox is used without the version of playwright it speaks",
        "node_package_invalid": "package.json cannot be read",
        "node_package_main_not_main_js": "`main` in package.json is not main.js",
        "node_package_type_not_commonjs": "`type` in package.json is not commonjs",
    },
    "Sources": {
        "http_proxy_env_not_used": "an HTTP client is used and the proxy variables are never read",
        "browser_endpoint_env_not_used": "a browser library is used and no endpoint variable is read",
        "axios_proxy_not_disabled": "axios with a SOCKS agent and without `proxy: false`",
        "hardcoded_user_agent": "a user agent in the source",
        "hardcoded_proxy_credentials": "proxy credentials in the source",
        "hardcoded_api_key": "an API key in the source",
        "upsert_unique_key_not_in_output_schema": "an upsert by a key that is no output column",
        "push_data_before_table_header": "the table header is set after a row was pushed",
        "source_not_parsable": "a source file cannot be read",
    },
    "Input schema": {
        "input_schema_root_invalid": "no JSON, nested too deep, or no object",
        "input_schema_unknown_root_key": "a key that means nothing",
        "input_schema_properties_invalid": "`properties` is no array",
        "input_schema_b_invalid": "`b` is no text",
        "input_schema_b_missing_property": "`b` names no property",
        "input_schema_b_not_array": "`b` names a property that is no array",
        "input_schema_concurrency_invalid": "`concurrency` is no object",
        "input_schema_concurrency_fields_invalid": "`concurrency.fields` is no array",
        "input_schema_concurrency_fields_blank": "`concurrency.fields` holds only blank names",
        "input_schema_concurrency_remove_fields_invalid": "`concurrency.remove_fields` is no array",
        "input_schema_concurrency_field_missing_property": "a concurrency field is no property",
        "input_schema_concurrency_field_not_array": "a concurrency field is no array",
        "input_schema_concurrency_remove_field_not_in_fields": "a removed field is no concurrency field",
        "input_schema_concurrency_limits_invalid": "`concurrency.limits` cannot be read",
        "input_property_invalid": "a property is no object",
        "input_property_missing_name": "a property has no name",
        "input_property_name_invalid": "a name with unusual characters",
        "input_property_duplicate_name": "a name that is taken",
        "input_property_unsupported_type": "an unknown type",
        "input_property_unsupported_editor": "an unknown editor",
        "input_property_required_invalid": "`required` is no boolean",
        "input_property_missing_title": "a property without title",
        "input_property_missing_type": "a property without type",
        "input_property_missing_editor": "a property without editor",
        "input_property_missing_description": "a property without description",
        "input_property_missing_required": "a property without required",
        "input_required_missing_default": "a required property without default",
        "input_editor_type_mismatch": "an editor that usually goes with another type",
        "input_select_multiple_type_mismatch": "`multiple` and the type disagree",
        "input_max_results_naming": "a cap on results that is not called max_results",
        "input_default_type_mismatch": "a default of another type",
        "input_default_list_item_invalid": "a default list with odd items",
        "input_options_invalid": "no options to choose from",
        "input_param_list_invalid": "`param_list` is empty or a column has no `param`",
        "input_param_unsupported_editor": "a column with an unknown editor",
        "input_section_invalid": "a section caption or description that is no text",
        "input_bounds_invalid": "bounds that are no numbers or contradict each other",
    },
    "Output schema": {
        "output_schema_root_invalid": "no JSON, nested too deep, or no array",
        "output_column_invalid": "a column is no object",
        "output_column_missing_name": "a column has no name",
        "output_column_duplicate_name": "a name that is taken",
        "output_column_missing_type": "a column without type",
        "output_column_unsupported_type": "an unknown type",
    },
}

INTRODUCTION = """# Diagnostics of a package

`clawplane workers push`, the upload operations and `GET /v1/workers/{workerId}/versions/{version}/diagnostics` report
these. A package with a finding marked **refused** is not stored at all; everything else is reported and accepted.
"""


def diagnostics_page(domain: Path) -> str:
    """Return the page; raises LookupError when it and the code name different codes."""
    found = severities(domain)
    explained = {code for section in MEANINGS.values() for code in section}
    if missing := sorted(found.keys() ^ explained):
        raise LookupError(f"scripts/reference_diagnostics.py and the checks differ in: {', '.join(missing)}")
    lines = [INTRODUCTION]
    for title, section in MEANINGS.items():
        lines += [f"## {title}\n", "| code | severity | | meaning |", "| --- | --- | --- | --- |"]
        for code, meaning in section.items():
            refuses = code in FATAL_CODES or (title == "The archive" and "error" in found[code])
            mark = "**refused**" if refuses else ""
            lines.append(f"| `{code}` | {', '.join(found[code])} | {mark} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def severities(domain: Path) -> dict[str, list[str]]:
    """Return every code with the severities that the sources give it, the worst first."""
    found: dict[str, set[str]] = {}
    for module in MODULES:
        for code, levels in _literals(ast.parse((domain / f"{module}.py").read_text(encoding="utf-8"))):
            found.setdefault(code, set()).update(levels)
    for pattern, parts in FORMATTED.items():
        levels = found.pop(pattern)
        for part in parts:
            found[pattern.format(part)] = levels
    # what is passed on without a severity is made an error by the function it is passed to
    return {code: [level for level in SEVERITIES if level in (levels or {"error"})] for code, levels in found.items()}


def _literals(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """Yield codes that are an argument, an item of a tuple or assigned to `code`, with the severity beside them."""
    for node in ast.walk(tree):
        items = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple) else []
        for item, following in pairwise(items):
            if code := _code(item):
                levels = [each.value for each in ast.walk(following) if isinstance(each, ast.Constant)]
                yield code, {str(level) for level in levels if level in SEVERITIES}
        if isinstance(node, ast.Assign) and (code := _code(node.value)):
            yield code, set()


def _code(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        text = str(node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        return text if text in FORMATTED else ""
    else:
        return ""
    return text if CODE.fullmatch(text) and text.startswith(PREFIXES) else ""
