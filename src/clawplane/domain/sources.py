"""Collect from a Worker's source what the diagnostics want to know: imports, strings, calls.

Python goes through the language's own parser; JavaScript and Go through one tokenising expression that knows comments,
strings and names. Both are guesses about other people's code and only ever lead to reports, never to a refusal. Sources
are bounded in size and number; an expression here never backtracks over what it has taken (`*+`), so that a file of
unclosed comments costs one pass.
"""

from __future__ import annotations

import ast
import re
import threading
import warnings
from collections.abc import Iterator

import msgspec

MAX_SOURCE_BYTES = 256_000
MAX_SOURCE_FILES = 300
MAX_SOURCES_BYTES = 4_000_000

Place = tuple[str, int]
"""A file and a line, from 1."""

_WARNINGS = threading.Lock()
"""Warning filters belong to the process: two threads that set and restore them would leave the wrong ones behind."""

_MOST_PLACES, _MOST_IMPORTS, _MOST_UPSERTS = 20, 1000, 200

_USER_AGENT = re.compile(r"Mozilla/\d\.\d \(")
_PROXY_CREDENTIALS = re.compile(r"\b(?:socks[45][ah]?|https?)://[^\s:@/{}$%<>]{1,100}:[^\s:@/{}$%<>]{1,100}@[\w.-]")
_KEY_SHAPES = re.compile(
    r"\b(?:scraper_api_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{30,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|xox[abp]-[0-9A-Za-z-]{10,})"
)
_KEY_NAME = re.compile(
    r"(?:^|_|-)(?:api_?key|api-key|apikey|secret|secret_?key|access_?token|auth_?token|password)$", re.I
)
_KEY_VALUE = re.compile(r"(?=[^\s]*\d)[A-Za-z0-9_\-+/=.]{16,200}")
_INTERESTING = re.compile(
    r"PROXY_AUTH|PROXY_DOMAIN|ChromeWs|ChromeHttp|CamoufoxDomain|LightpandaDomain|CDP_ENDPOINT|BROWSER_WS_ENDPOINT|socks5"
)

_PUSHES = frozenset({"push_data", "pushData", "PushData"})
_HEADERS = frozenset({"set_table_header", "setTableHeader", "SetTableHeader"})
_UPSERTS = frozenset({"upsert_data", "upsertData", "UpsertData"})


class SourceFacts:
    """What was found, each with its first place."""

    def __init__(self) -> None:
        self.imports: dict[str, Place] = {}
        self.mentions: dict[str, Place] = {}
        """Environment variables and schemes that appear in strings or as members."""
        self.user_agents: list[Place] = []
        self.proxy_credentials: list[Place] = []
        self.api_keys: list[Place] = []
        self.upserts: list[tuple[str, Place]] = []
        self.late_headers: list[Place] = []
        self.proxy_disabled = False
        self.unparsable: list[tuple[str, int, str]] = []

    def add_import(self, module: str, place: Place) -> None:
        """Note an imported module or package."""
        if len(self.imports) < _MOST_IMPORTS:
            self.imports.setdefault(module, place)

    def add_text(self, text: str, place: Place) -> None:
        """Note a string literal or a name that may be an environment variable."""
        for match in _INTERESTING.finditer(text[:10_000]):
            self.mentions.setdefault(match[0], place)
        for pattern, places in (
            (_USER_AGENT, self.user_agents),
            (_PROXY_CREDENTIALS, self.proxy_credentials),
            (_KEY_SHAPES, self.api_keys),
        ):
            if len(places) < _MOST_PLACES and place not in places and pattern.search(text[:10_000]):
                places.append(place)

    def add_assignment(self, name: str, text: str, place: Place) -> None:
        """Note a literal that is given to a name or a key."""
        wanted = len(self.api_keys) < _MOST_PLACES and place not in self.api_keys
        if wanted and _KEY_NAME.search(name[-80:]) and _KEY_VALUE.fullmatch(text):
            self.api_keys.append(place)

    def add_calls(self, calls: list[tuple[str, int, str | None]], file: str) -> None:
        """Note a file's calls of the SDK: name, line, last literal argument."""
        pushes = [line for name, line, _ in calls if name in _PUSHES | _UPSERTS]
        headers = [line for name, line, _ in calls if name in _HEADERS]
        if pushes and headers and min(pushes) < min(headers):
            self.late_headers.append((file, min(headers)))
        upserts = [(key, (file, line)) for name, line, key in calls if name in _UPSERTS and key]
        self.upserts += upserts[: _MOST_UPSERTS - len(self.upserts)]


_CALLS = _PUSHES | _HEADERS | _UPSERTS


def scan_python(facts: SourceFacts, file: str, source: bytes) -> None:
    """Add the facts of one Python file; a file that does not parse is noted as such."""
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are the author's, and would be printed to our log
            tree = ast.parse(source, file)
    except SyntaxError as error:
        facts.unparsable.append((file, error.lineno or 1, error.msg))
        return
    except (ValueError, RecursionError, MemoryError):
        facts.unparsable.append((file, 1, "it cannot be parsed"))
        return
    calls: list[tuple[str, int, str | None]] = []
    for node in ast.walk(tree):
        _python_node(facts, file, node, calls)
    facts.add_calls(calls, file)


def _python_node(facts: SourceFacts, file: str, node: ast.AST, calls: list[tuple[str, int, str | None]]) -> None:
    if isinstance(node, ast.Import):
        for alias in node.names:
            facts.add_import(alias.name, (file, node.lineno))
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for alias in node.names:
            facts.add_import(f"{node.module}.{alias.name}", (file, node.lineno))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        facts.add_text(node.value, (file, node.lineno))
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _CALLS:
            named = [keyword.value for keyword in node.keywords if keyword.arg == "unique_key"]
            calls.append((name, node.lineno, _literal([*node.args[1:2], *named])))
        for keyword in node.keywords:
            _python_assignment(facts, file, keyword.arg, keyword.value)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", None)
            _python_assignment(facts, file, name, node.value)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            _python_assignment(facts, file, key.value if isinstance(key, ast.Constant) else None, value)


def _python_assignment(facts: SourceFacts, file: str, name: object, value: ast.expr) -> None:
    if isinstance(name, str) and isinstance(value, ast.Constant) and isinstance(value.value, str):
        facts.add_assignment(name, value.value, (file, value.lineno))


def _literal(nodes: list[ast.expr]) -> str | None:
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return texts[-1] if texts else None


_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/)?)
      |(?P<string>"(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?|`(?:[^`\\]|\\.)*+`?)
      |(?P<name>[A-Za-z_$][\w$]*+)
      |(?P<mark>[()\[\]{},:=;.])""",
    re.VERBOSE | re.DOTALL,
)


class _Token(msgspec.Struct, frozen=True, gc=False):
    kind: str
    text: str
    line: int


def _tokens(source: str) -> Iterator[_Token]:
    line, counted = 1, 0
    for match in _TOKEN.finditer(source):
        line += source.count("\n", counted, match.start())
        counted = match.start()
        if match.lastgroup != "comment":
            text = match[0]
            yield _Token(match.lastgroup or "", text[1:-1] if match.lastgroup == "string" else text, line)


def scan_tokens(facts: SourceFacts, file: str, source: bytes, *, go: bool) -> None:
    """Add the facts of one JavaScript or Go file."""
    tokens = [*_tokens(source.decode("utf-8", "replace"))]
    nothing = _Token("", "", 0)
    calls: list[tuple[str, int, str | None]] = []
    in_imports = False
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else nothing
        earlier = tokens[index - 2] if index > 1 else nothing
        after = tokens[index + 1] if index + 1 < len(tokens) else nothing
        if go and token.text == "import" and after.text == "(":
            in_imports = True
        elif in_imports and token.text == ")":
            in_imports = False
        place = (file, token.line)
        if token.kind == "name":
            facts.add_text(token.text, place)
            if token.text in _CALLS and after.text == "(" and before.text not in ("func", "function", ")"):
                calls.append((token.text, token.line, _last_argument(tokens, index + 1)))
            if token.text == "fetch" and after.text == "(" and not go:
                facts.add_import("fetch()", place)
            if token.text == "proxy" and after.text == ":" and tokens[index + 2 : index + 3]:
                facts.proxy_disabled |= tokens[index + 2].text == "false"
        elif token.kind == "string":
            facts.add_text(token.text, place)
            called = before.text == "(" and earlier.text in ("require", "import")
            if in_imports or before.text in ("from", "import") or called or (go and earlier.text == "import"):
                facts.add_import(token.text, place)
            if before.text in (":", "="):
                facts.add_assignment(earlier.text, token.text, place)
    facts.add_calls(calls, file)


def _last_argument(tokens: list[_Token], start: int) -> str | None:
    """Return the literal that ends the argument list opening at `start`, when it is preceded by a comma."""
    depth = 0
    for index in range(start, min(len(tokens), start + 300)):
        text, kind = tokens[index].text, tokens[index].kind
        if kind == "mark" and text in "([{":
            depth += 1
        elif kind == "mark" and text in ")]}":
            depth -= 1
            if depth == 0:
                last, comma = tokens[index - 1], tokens[index - 2]
                return last.text if last.kind == "string" and comma.text == "," else None
    return None
