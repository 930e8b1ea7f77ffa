"""Packages: every diagnostic has a package that causes it, and what must run unmodified is accepted."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from clawplane.domain.archives import ArchiveRefused, inspect
from clawplane.domain.diagnostics import Diagnostic
from clawplane.domain.packages import PackageReport, examine

ELF = b"\x7fELF\x02\x01\x01" + b"\0" * 11 + b"\x3e\0" + b"\0" * 40
URL = {"name": "url", "title": "URL", "type": "array", "editor": "requestList", "description": "D", "required": False}
SCHEMA = json.dumps({"properties": [URL], "b": "url"})
OUTPUT = '[{"name":"id","type":"string"},{"name":"title","type":"string"}]'
PYTHON = {
    "main.py": "from sdk import CoreSDK\nimport os\nprint(os.environ['PROXY_AUTH'])\n",
    "input_schema.json": SCHEMA,
    "output_schema.json": OUTPUT,
    "requirements.txt": "grpcio==1.80.0\nprotobuf==6.31.1\nrequests[socks]\n",
    "README.md": "# Worker",
    "sdk.py": "import grpc",
    "sdk_pb2.py": "import google.protobuf",
    "sdk_pb2_grpc.py": "import grpc",
}
NODE = {
    "main.js": "const { log } = require('./sdk');\n",
    "input_schema.json": SCHEMA,
    "output_schema.json": OUTPUT,
    "package.json": json.dumps(
        {"main": "main.js", "dependencies": {"@grpc/grpc-js": "1", "google-protobuf": "4", "axios": "1"}}
    ),
    "README.md": "# Worker",
    "sdk.js": "",
    "sdk_pb.js": "",
    "sdk_grpc_pb.js": "",
}
GO = {"main": ELF, "input_schema.json": SCHEMA, "output_schema.json": OUTPUT, "README.md": "# Worker"}

Files = dict[str, "str | bytes"]


def pack(files: Files, mode: int = 0o755) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100000 | mode) << 16
            archive.writestr(info, content)
    return buffer


def examined(
    base: dict[str, str] | Files, changes: Files | None = None, without: str = "", mode: int = 0o755
) -> PackageReport:
    files: Files = {**base, **(changes or {})}
    files.pop(without, None)
    return examine(inspect(pack(files, mode)))


def find(report: PackageReport, code: str) -> Diagnostic:
    found = [diagnostic for diagnostic in report.diagnostics if diagnostic.code == code]
    assert found, f"{code} is not among {[d.sentence() for d in report.diagnostics]}"
    assert found[0].hint
    return found[0]


@pytest.mark.parametrize(
    ("base", "language", "entry"), [(PYTHON, "python", "main.py"), (NODE, "node", "main.js"), (GO, "go", "main")]
)
def test_accepts_a_clean_worker_without_a_single_finding(base: Files, language: str, entry: str) -> None:
    report = examined(base)
    assert report.diagnostics == ()
    assert (report.accepted, report.language, report.entry) == (True, language, entry)
    assert report.input_schema is not None
    assert report.input_schema.legacy_key == "url"
    assert report.readme == "# Worker"
    report.require()


def test_accepts_the_style_of_published_workers_and_still_reports_it() -> None:
    report = examined(
        PYTHON,
        {
            "main.py": "import requests, curl_cffi\nfrom sdk import CoreSDK\nrequests.get('x')\n"
            "CoreSDK.Result.push_data({})\nCoreSDK.Result.set_table_header([])\n",
            "requirements.txt": "aiofiles\ncurl_cffi==0.13.0\ngrpcio==1.80.0\n",
        },
        without="output_schema.json",
    )
    assert report.accepted
    assert {found.code for found in report.diagnostics} == {
        "missing_output_schema",
        "missing_runtime_dependency",
        "python_dependency_not_declared",
        "http_proxy_env_not_used",
        "push_data_before_table_header",
    }
    assert report.output_schema_json == b"[]"


@pytest.mark.parametrize(
    ("base", "changes", "without", "code"),
    [
        (PYTHON, {}, "main.py", "missing_required_file"),
        (PYTHON, {}, "input_schema.json", "missing_required_file"),
        (PYTHON, {"Main.py": "1"}, "main.py", "required_file_case_mismatch"),
        (PYTHON, {"Input_Schema.json": SCHEMA}, "input_schema.json", "required_file_case_mismatch"),
        (PYTHON, {"main.js": ""}, "", "multiple_entry_files"),
        (PYTHON, {"main": ELF}, "", "multiple_entry_files"),
        (PYTHON, {"main.go": "package main"}, "", "multiple_entry_files"),
        ({f"worker/{name}": text for name, text in PYTHON.items()}, {"__MACOSX/x": ""}, "", "package_entry_nested"),
        (PYTHON, {"src/main.py": "1"}, "main.py", "package_missing_required_root_entry"),
        (GO, {"main.go": "package main"}, "main", "package_go_source_without_binary"),
        (GO, {"main": "#!/bin/sh\n"}, "", "package_go_main_not_elf"),
        (GO, {"main": ELF[:18] + b"\xb7\0" + ELF[20:]}, "", "package_go_main_not_elf"),
        (PYTHON, {"input_schema.json": "{"}, "", "input_schema_root_invalid"),
        (PYTHON, {"input_schema.json": "[" * 900_000}, "", "input_schema_root_invalid"),
        (PYTHON, {"input_schema.json": " " * 1_000_001}, "", "package_file_too_large"),
        (PYTHON, {"output_schema.json": "{}"}, "", "output_schema_root_invalid"),
        (NODE, {"package.json": "{"}, "", "node_package_invalid"),
    ],
)
def test_refuses_what_cannot_run(base: Files, changes: Files, without: str, code: str) -> None:
    report = examined(base, changes, without)
    assert find(report, code).severity == "error"
    assert not report.accepted
    with pytest.raises(ArchiveRefused) as caught:
        report.require()
    assert any(code in detail for detail in caught.value.details)


def test_refuses_a_go_binary_without_the_execute_bit() -> None:
    report = examined(GO, mode=0o644)
    find(report, "package_go_main_not_executable")
    assert not report.accepted
    assert examined(PYTHON, mode=0o644).accepted


@pytest.mark.parametrize(
    ("base", "changes", "without", "code", "severity", "place"),
    [
        (PYTHON, {}, "README.md", "missing_readme", "warn", "README.md"),
        (PYTHON, {"readme.md": "x"}, "README.md", "required_file_case_mismatch", "info", "readme.md"),
        (PYTHON, {}, "sdk.py", "package_missing_recommended_root_entry", "warn", "sdk.py"),
        (NODE, {"package.json": '{"main":"index.js"}'}, "", "node_package_main_not_main_js", "error", "package.json"),
        (NODE, {"package.json": '{"type":"module"}'}, "", "node_package_type_not_commonjs", "error", "package.json"),
        (NODE, {"package.json": '{"main":"main.js"}'}, "", "missing_runtime_dependency", "error", "package.json"),
        (PYTHON, {"requirements.txt": "grpcio"}, "", "missing_runtime_dependency", "error", "requirements.txt"),
        (GO, {"go.mod": "module x\n"}, "", "missing_runtime_dependency", "error", "go.mod"),
        (PYTHON, {"a.py": "1\nimport numpy\n"}, "", "python_dependency_not_declared", "warn", "a.py:2"),
        (NODE, {"a.js": "\nrequire('left-pad')"}, "", "node_dependency_not_declared", "warn", "a.js:2"),
        (
            GO,
            {"go.mod": "module x\nrequire (\n  google.golang.org/grpc v1.78.0\n)\n", "go.sum": ""},
            "",
            "go_missing_module_checksum",
            "error",
            "go.mod:3",
        ),
        (
            PYTHON,
            {"requirements.txt": "grpcio\nprotobuf>=6"},
            "",
            "protobuf_version_not_pinned",
            "warn",
            "requirements.txt:2",
        ),
        (
            NODE,
            {"main.js": "\n/* x */ const a = require('axios')"},
            "",
            "http_proxy_env_not_used",
            "error",
            "main.js:2",
        ),
        (
            GO,
            {"main.go": 'package main\nimport (\n "net/http"\n)'},
            "",
            "http_proxy_env_not_used",
            "error",
            "main.go:3",
        ),
        (PYTHON, {"a.py": "from playwright.sync_api import x"}, "", "browser_endpoint_env_not_used", "warn", "a.py:1"),
        (
            PYTHON,
            {"a.py": "import requests\np = 'socks5://x'", "requirements.txt": "requests"},
            "",
            "missing_socks_proxy_dependency",
            "error",
            "a.py:2",
        ),
        (NODE, {"a.js": "require('socks-proxy-agent')"}, "", "missing_socks_proxy_dependency", "error", "a.js:1"),
        (
            NODE,
            {"a.js": "require('axios');\nrequire('socks-proxy-agent')"},
            "",
            "axios_proxy_not_disabled",
            "warn",
            "a.js:2",
        ),
        (PYTHON, {"a.py": "UA = 'Mozilla/5.0 (X11)'"}, "", "hardcoded_user_agent", "warn", "a.py:1"),
        (NODE, {"a.js": "p = `socks5://user:s3cret@h:1`"}, "", "hardcoded_proxy_credentials", "error", "a.js:1"),
        (PYTHON, {"a.py": "API_KEY = 'abcdef0123456789'"}, "", "hardcoded_api_key", "warn", "a.py:1"),
        (NODE, {"a.js": "x({apiKey: 'abcdef0123456789'})"}, "", "hardcoded_api_key", "warn", "a.js:1"),
        (PYTHON, {"a.py": "os.getenv('CamoufoxDomain')"}, "", "camoufox_playwright_not_pinned", "error", "a.py:1"),
        (
            PYTHON,
            {"a.py": "R.upsert_data(row, 'key')"},
            "",
            "upsert_unique_key_not_in_output_schema",
            "error",
            "a.py:1",
        ),
        (
            NODE,
            {"a.js": "result.upsertData({a: f(1)}, 'key')"},
            "",
            "upsert_unique_key_not_in_output_schema",
            "error",
            "a.js:1",
        ),
        (NODE, {"a.js": "r.pushData({})\nr.setTableHeader([])"}, "", "push_data_before_table_header", "warn", "a.js:2"),
        (PYTHON, {"a.py": "def ("}, "", "source_not_parsable", "warn", "a.py:1"),
    ],
)
def test_reports_and_accepts(base: Files, changes: Files, without: str, code: str, severity: str, place: str) -> None:
    report = examined(base, changes, without)
    found = find(report, code)
    assert found.severity == severity
    assert place == (found.file if found.line is None else f"{found.file}:{found.line}")
    assert report.accepted


def test_finds_nothing_where_the_rules_are_kept() -> None:
    requirements = "grpcio\nprotobuf==6.31.1\nrequests[socks]>=2 ; python_version > '3'\nplaywright==1.49.1\n"
    main = """
import requests, os, helpers.x, sdk_pb2
from . import b
url = f"socks5h://{os.environ['PROXY_AUTH']}@x"
domain = os.getenv('CamoufoxDomain')
S.set_table_header([])
S.push_data({})
S.upsert_data({}, unique_key='id')
"""
    python = examined(PYTHON, {"requirements.txt": requirements, "a.py": main, "helpers/x.py": ""})
    names = ("@grpc/grpc-js", "google-protobuf", "axios", "socks-proxy-agent", "@scope/x")
    manifest = {"main": "main.js", "type": "commonjs", "dependencies": dict.fromkeys(names, "1")}
    script = """
// require('commented')
const fs = require('node:fs/promises'), h = require('https');
import x from '@scope/x/y';
const axios = require('axios'); require('socks-proxy-agent');
axios.get(u, {proxy: false, url: process.env.PROXY_AUTH});
"""
    node = examined(NODE, {"package.json": json.dumps(manifest), "a.js": script})
    assert [found.sentence() for found in (*python.diagnostics, *node.diagnostics)] == []


def test_reports_an_advised_size() -> None:
    archive = inspect(pack(dict(PYTHON)))
    archive.compressed_size = 50_000_001
    assert find(examine(archive), "package_size_exceeds_threshold").severity == "warn"


def test_never_repeats_a_secret() -> None:
    report = examined(PYTHON, {"a.py": "api_key = 'abcdef0123456789'\np = 'http://user:pass1234@host:1'"})
    text = " ".join(found.sentence() for found in report.diagnostics)
    assert "abcdef" not in text
    assert "pass1234" not in text


def test_a_hostile_source_costs_a_report_and_no_crash() -> None:
    report = examined(
        PYTHON,
        {
            "deep.py": "x = " + "1+" * 100_000 + "1",
            "parens.py": "(" * 100_000,
            "imports.py": "\n".join(f"import m{n}" for n in range(12_000)),
            "requirements.txt": "\n".join(f"r{n}" for n in range(50_000)),
        },
    )
    assert len(report.diagnostics) < 200
    assert report.accepted
