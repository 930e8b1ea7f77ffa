"""Survey Python's standard library: what is in each module, and how well it is documented.

Input: `modules`, a list of glob patterns over dotted module names ("json.*", "http*"); each pattern is one subtask.
Rows: one per module, upserted by its name, so that overlapping patterns do not count a module twice.
"""

import ast
import fnmatch
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from sdk import CoreSDK

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3", "idlelib"}
COLUMNS = [
    ("Module", "module", "text"),
    ("Lines", "lines", "integer"),
    ("Functions", "functions", "integer"),
    ("Classes", "classes", "integer"),
    ("Documented", "documented", "number"),
    ("Longest function", "longest_function", "text"),
    ("Its lines", "longest_lines", "integer"),
    ("Imports", "imports", "array"),
]


def modules() -> Iterator[tuple[str, Path]]:
    """Yield name and file of every module of the standard library that is written in Python."""
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY).with_suffix("").parts
        if LEFT_OUT.isdisjoint(parts):
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def examine(name: str, path: Path) -> dict:
    """Return the row of one module."""
    source = path.read_bytes()
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    public = [node for node in functions + classes if not node.name.startswith("_")]
    documented = sum(ast.get_docstring(node) is not None for node in public)
    longest = max(functions, key=lambda node: node.end_lineno - node.lineno, default=None)
    imports = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imports |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {
        "module": name,
        "lines": source.count(b"\n"),
        "functions": len(functions),
        "classes": len(classes),
        "documented": round(documented / len(public), 3) if public else None,
        "longest_function": longest.name if longest else "",
        "longest_lines": longest.end_lineno - longest.lineno + 1 if longest else 0,
        "imports": sorted(imports),
    }


def main() -> int:
    """Survey the modules that match the input; fail when nothing does."""
    patterns = [str(pattern) for pattern in CoreSDK.Parameter.get_input_json_dict().get("modules", [])]
    CoreSDK.Result.set_table_header([{"label": label, "key": key, "format": kind} for label, key, kind in COLUMNS])
    CoreSDK.Log.info(f"Python {sys.version.split()[0]}, library at {LIBRARY}, looking for {', '.join(patterns)}")
    found = unreadable = 0
    for name, path in modules():
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        try:
            row = examine(name, path)
        except (SyntaxError, ValueError) as error:
            unreadable += 1
            CoreSDK.Log.warn(f"{name} cannot be parsed: {error}")
            continue
        answer = CoreSDK.Result.upsert_data(row, "module")
        if answer.code != 0:
            CoreSDK.Log.error(f"{name} was not accepted: {answer.message}")
            return 1
        found += 1
    if not found:
        CoreSDK.Log.error(f"no module of the standard library matches {', '.join(patterns)}")
        return 1
    CoreSDK.Log.info(f"{found} modules surveyed, {unreadable} could not be parsed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
