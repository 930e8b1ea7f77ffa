"""Examine an uploaded package: which language, which schemas, what is wrong with it.

An upload is refused when it could not run, or not be offered as a form, whatever its author meant: no entry, two
entries, no input schema, everything one directory too deep, a Go package without an executable ELF file, a schema that
cannot be read, a package.json that is no JSON. These are `FATAL_CODES`, and what `archives` refuses before.

Everything else is reported at the severity the platform's own tools give it, `error` included, and accepted: a Worker
that never reads the proxy variables, carries credentials or leaves a dependency to the platform's base environment is
unwise, but it runs, and published sample Workers of exactly that kind have to run here unmodified. Severity tells the
author how much it matters; `accepted` tells whether the package is taken.

Two checks look at the ZIP's root, and differ: `missing_required_file` is a file that is nowhere in the package,
`package_missing_required_root_entry` one that is there but not at the root (`_recommended_` for files a Worker can do
without). When a single directory wraps everything, `package_entry_nested` says so instead.

Codes of our own, beside the platform's: `multiple_entry_files`, `package_go_main_not_elf`, `node_package_invalid`,
`source_not_parsable`, `package_file_too_large`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from clawplane.domain import schema_checks
from clawplane.domain.archives import Archive, ArchiveRefused
from clawplane.domain.diagnostics import Diagnostic
from clawplane.domain.manifests import (
    NodeManifest,
    read_go_mod,
    read_go_sum,
    read_package_json,
    read_requirements,
)
from clawplane.domain.schema_checks import INPUT_FILE, OUTPUT_FILE, check_input_schema, check_output_schema
from clawplane.domain.schemas import InputSchema, OutputSchema
from clawplane.domain.source_checks import check_go, check_node, check_python, check_sources
from clawplane.domain.sources import (
    MAX_SOURCE_BYTES,
    MAX_SOURCE_FILES,
    MAX_SOURCES_BYTES,
    SourceFacts,
    scan_python,
    scan_tokens,
)
from clawplane.domain.workers import Language

FATAL_CODES = schema_checks.FATAL_CODES | {
    "missing_required_file",
    "required_file_case_mismatch",
    "package_missing_required_root_entry",
    "multiple_entry_files",
    "package_entry_nested",
    "package_go_source_without_binary",
    "package_go_main_not_executable",
    "package_go_main_not_elf",
    "package_file_too_large",
    "node_package_invalid",
}
"""Findings of severity `error` with which an upload is refused, when they concern a file nothing can run without."""

ADVISED_SIZE = 50_000_000
_MOST_TEXT = 1_000_000
_MOST_OF_A_CODE = 50
_ENTRIES: dict[str, Language] = {"main.py": "python", "main.js": "node", "main": "go"}
_LEFT_OUT = frozenset({"node_modules", "__pycache__", ".venv", "venv", ".git", "dist", "build", "__MACOSX", "GoSdk"})
_SDK_FILES: dict[Language, tuple[str, ...]] = {
    "python": ("sdk.py", "sdk_pb2.py", "sdk_pb2_grpc.py"),
    "node": ("sdk.js", "sdk_pb.js", "sdk_grpc_pb.js"),
    "go": (),
}
_MANIFESTS: dict[Language, str] = {"python": "requirements.txt", "node": "package.json"}
_SUFFIXES: dict[Language, tuple[str, ...]] = {"python": (".py",), "node": (".js", ".cjs", ".mjs"), "go": (".go",)}
_X86_64 = b"\x3e\x00"


class PackageReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a package is. Texts are empty where the file is absent; schemas None where absent or unreadable."""

    language: Language | None
    entry: str
    input_schema: InputSchema | None
    input_schema_json: bytes
    output_schema: OutputSchema | None
    output_schema_json: bytes
    """`[]` when the package has no readable output schema."""
    requirements: str
    package_json: bytes
    package_lock: bytes
    readme: str
    title: str
    description: str
    version: str
    diagnostics: tuple[Diagnostic, ...]

    @property
    def refusals(self) -> list[Diagnostic]:
        """Return the findings with which the upload is refused."""
        return [found for found in self.diagnostics if found.severity == "error" and found.code in FATAL_CODES]

    @property
    def accepted(self) -> bool:
        """Tell whether the package is taken."""
        return self.language is not None and self.input_schema is not None and not self.refusals

    def require(self) -> None:
        """Raise ArchiveRefused with every reason unless the package is accepted."""
        if not self.accepted:
            raise ArchiveRefused(self.refusals or self.diagnostics)


class _Examination:
    """The package at hand and what was found so far."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.paths = [member.path for member in archive.files]
        self.found: list[Diagnostic] = []

    def add(self, found: Diagnostic) -> None:
        self.found.append(found)

    def bytes_of(self, path: str, limit: int = _MOST_TEXT) -> bytes:
        """Return a file's content; nothing, and a finding, when it is too large; nothing when it is absent."""
        if path not in self.archive:
            return b""
        try:
            return self.archive.read(path, limit)
        except ArchiveRefused as error:
            self.found += error.diagnostics
            return b""

    def text_of(self, path: str) -> str:
        """Return the beginning of a file meant for people; nothing when it is absent."""
        return self.archive.head(path, _MOST_TEXT).decode("utf-8-sig", "replace") if path in self.archive else ""


def examine(archive: Archive) -> PackageReport:
    """Return what the package holds and everything that is wrong with it; raises only when its data is damaged."""
    this = _Examination(archive)
    language = _find_entry(this)
    input_json = this.bytes_of(INPUT_FILE)
    output_json = this.bytes_of(OUTPUT_FILE)
    input_schema = _checked(this, INPUT_FILE, input_json, check_input_schema)
    output_schema = _checked(this, OUTPUT_FILE, output_json, check_output_schema)
    _check_root(this, language)
    requirements = this.bytes_of("requirements.txt").decode("utf-8-sig", "replace") if language == "python" else ""
    package_json = this.bytes_of("package.json") if language == "node" else b""
    readme = next((this.text_of(path) for path in this.paths if path.lower() == "readme.md"), "")
    if language is not None:
        _check_sources(this, language, output_schema, requirements, package_json)
    return PackageReport(
        language=language,
        entry=next((entry for entry, owner in _ENTRIES.items() if owner == language), ""),
        input_schema=input_schema,
        input_schema_json=input_json,
        output_schema=output_schema,
        output_schema_json=output_json if output_schema is not None else b"[]",
        requirements=requirements,
        package_json=package_json,
        package_lock=this.bytes_of("package-lock.json", 20_000_000) if language == "node" else b"",
        readme=readme,
        title=this.text_of("title.txt").strip()[:200],
        description=this.text_of("description.txt").strip(),
        version=this.text_of("version.txt").strip()[:80],
        diagnostics=tuple(_bounded(this.found)),
    )


def _bounded(findings: list[Diagnostic]) -> Iterator[Diagnostic]:
    """Yield the findings without the flood that a hostile package can make of one code."""
    counts: Counter[str] = Counter()
    for found in findings:
        counts[found.code] += 1
        if counts[found.code] <= _MOST_OF_A_CODE:
            yield found


def _find_entry(this: _Examination) -> Language | None:
    present = [entry for entry in _ENTRIES if entry in this.archive]
    if "main.go" in this.archive and "main" not in present:
        if not present:
            hint = "Build it with CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build -o main, and pack `main`."
            message = "main.go is there, the binary `main` is not."
            this.add(Diagnostic("package_go_source_without_binary", "error", message, "main.go", None, hint))
            return None
        present.append("main.go")
    if len(present) > 1:
        message = f"There are several entries: {', '.join(present)}."
        this.add(Diagnostic("multiple_entry_files", "error", message, present[1], None, "Keep the one that is to run."))
        return None
    if not present:
        if not _explain_misplaced(this, tuple(_ENTRIES)):
            message = "There is no entry: main.py, main.js or a Go binary `main`."
            this.add(
                Diagnostic("missing_required_file", "error", message, None, None, "Put one of them at the ZIP's root.")
            )
        return None
    language = _ENTRIES[present[0]]
    if language == "go":
        _check_binary(this)
    return language


def _explain_misplaced(this: _Examination, names: tuple[str, ...]) -> bool:
    """Say where a required file is instead of at the root; False when it is nowhere."""
    for path in this.paths:
        if path.lower() in names:
            message = f"Its name must be {path.lower()}, in lower case."
            this.add(Diagnostic("required_file_case_mismatch", "error", message, path, None, "Rename it."))
            return True
    nested = sorted((path for path in this.paths if path.rpartition("/")[2] in names), key=lambda path: path.count("/"))
    if not nested:
        return False
    top = nested[0].partition("/")[0]
    others = [path for path in this.paths if not path.startswith((f"{top}/", "__MACOSX/")) and path != ".DS_Store"]
    hint = "Pack the files themselves, not the directory that holds them."
    if not others:
        message = f"Everything is inside the directory {top}."
        known = any(found.code == "package_entry_nested" for found in this.found)
        if not known:
            this.add(Diagnostic("package_entry_nested", "error", message, nested[0], None, hint))
    else:
        message = f"{nested[0].rpartition('/')[2]} is not at the root of the ZIP."
        this.add(Diagnostic("package_missing_required_root_entry", "error", message, nested[0], None, hint))
    return True


def _check_binary(this: _Examination) -> None:
    head = this.archive.head("main", 20)
    if head[:5] != b"\x7fELF\x02" or head[18:20] != _X86_64:
        hint = "Build it with CGO_ENABLED=0 GOOS=linux GOARCH=amd64."
        message = "It is no 64-bit Linux program for amd64."
        this.add(Diagnostic("package_go_main_not_elf", "error", message, "main", None, hint))
    elif not this.archive.member("main").executable:
        hint = "Pack it on Linux or macOS after `chmod 755 main`, or set the mode 100755 in the ZIP."
        message = "It does not carry the execute bit."
        this.add(Diagnostic("package_go_main_not_executable", "error", message, "main", None, hint))


_Schema = TypeVar("_Schema")


def _checked(
    this: _Examination, path: str, data: bytes, check: Callable[[bytes], tuple[_Schema | None, list[Diagnostic]]]
) -> _Schema | None:
    if path not in this.archive or any(found.file == path for found in this.found):
        return None  # absent or too large, which is said elsewhere
    schema, found = check(data)
    this.found += found
    return schema


def _check_root(this: _Examination, language: Language | None) -> None:
    if INPUT_FILE not in this.archive and not _explain_misplaced(this, (INPUT_FILE,)):
        hint = 'Add it; {"properties": []} asks for nothing.'
        this.add(Diagnostic("missing_required_file", "error", "It is missing.", INPUT_FILE, None, hint))
    if OUTPUT_FILE not in this.archive:
        hint = "Describe the result columns; until then they are taken from the header or the rows."
        this.add(Diagnostic("missing_output_schema", "warn", "It is missing.", OUTPUT_FILE, None, hint))
    if not any(path.lower() == "readme.md" for path in this.paths):
        this.add(Diagnostic("missing_readme", "warn", "It is missing.", "README.md", None, "Say what the Worker does."))
    for path in this.paths:
        expected = {"readme.md": "README.md", OUTPUT_FILE: OUTPUT_FILE}.get(path.lower(), path)
        if expected != path:
            message = f"Its name is usually written {expected}."
            this.add(Diagnostic("required_file_case_mismatch", "info", message, path, None, "Rename it."))
    recommended = [_MANIFESTS[language]] if language in _MANIFESTS else []
    recommended += _SDK_FILES[language] if language is not None else ()
    for name in recommended:
        if name not in this.archive:
            message = "It is not at the root of the ZIP."
            hint = "Add it, unless the Worker does without."
            this.add(Diagnostic("package_missing_recommended_root_entry", "warn", message, name, None, hint))
    if this.archive.compressed_size > ADVISED_SIZE:
        message = f"The package has {this.archive.compressed_size} bytes; at most {ADVISED_SIZE} are advised."
        hint = "Leave out data, caches and installed dependencies."
        this.add(Diagnostic("package_size_exceeds_threshold", "warn", message, None, None, hint))


def _check_sources(
    this: _Examination, language: Language, output: OutputSchema | None, requirements: str, package_json: bytes
) -> None:
    facts = SourceFacts()
    for path in _source_files(this, language):
        source = this.archive.read(path, MAX_SOURCE_BYTES)
        if language == "python":
            scan_python(facts, path, source)
        else:
            scan_tokens(facts, path, source, go=language == "go")
    this.found += check_sources(facts, output)
    if language == "python":
        local = frozenset(path.split("/")[0].removesuffix(".py") for path in this.paths)
        this.found += check_python(facts, read_requirements(requirements), local)
    elif language == "node":
        absent = "package.json" not in this.archive
        this.found += check_node(facts, NodeManifest(main="main.js") if absent else read_package_json(package_json))
    elif "go.mod" in this.archive:
        this.found += check_go(read_go_mod(this.text_of("go.mod")), read_go_sum(this.text_of("go.sum")))


def _source_files(this: _Examination, language: Language) -> Iterator[str]:
    left, count = MAX_SOURCES_BYTES, MAX_SOURCE_FILES
    for member in this.archive.files:
        own = member.path.endswith(_SUFFIXES[language]) and not _LEFT_OUT.intersection(member.path.split("/"))
        if own and member.path not in _SDK_FILES[language] and member.size <= min(MAX_SOURCE_BYTES, left) and count:
            left -= member.size
            count -= 1
            yield member.path
