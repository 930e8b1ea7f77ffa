"""Turn what the sources contain and what the manifests declare into diagnostics.

One function per question; each gets the facts and yields findings. Of these only a package.json that is no JSON refuses
an upload. Secrets are reported by their place and never by their text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from clawplane.domain.diagnostics import Diagnostic, Severity
from clawplane.domain.manifests import Declared, NodeManifest
from clawplane.domain.schemas import OutputSchema
from clawplane.domain.sources import Place, SourceFacts

_PROXY_VARIABLES = ("PROXY_AUTH", "PROXY_DOMAIN")
_BROWSER_VARIABLES = (
    "ChromeWs",
    "ChromeHttp",
    "CamoufoxDomain",
    "LightpandaDomain",
    "CDP_ENDPOINT",
    "BROWSER_WS_ENDPOINT",
)

_HTTP_CLIENTS = frozenset(
    {
        *(
            "requests",
            "httpx",
            "aiohttp",
            "curl_cffi",
            "urllib3",
            "urllib.request",
            "http.client",
            "pycurl",
            "tls_client",
        ),
        *("axios", "node-fetch", "got", "undici", "superagent", "request", "needle", "http", "https", "node:http"),
        *("node:https", "fetch()", "net/http"),
    }
)
_BROWSERS = frozenset(
    {
        *("playwright", "selenium", "DrissionPage", "pyppeteer", "nodriver", "camoufox"),
        *("puppeteer", "puppeteer-core", "playwright-core", "@playwright/test", "selenium-webdriver"),
        *("github.com/chromedp/chromedp", "github.com/go-rod/rod", "github.com/playwright-community/playwright-go"),
    }
)

_PYTHON_NAMES = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "yaml": "pyyaml",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "grpc": "grpcio",
    "google.protobuf": "protobuf",
    "socks": "pysocks",
    "Crypto": "pycryptodome",
    "sklearn": "scikit-learn",
    "jwt": "pyjwt",
    "OpenSSL": "pyopenssl",
    "attr": "attrs",
    "fitz": "pymupdf",
    "serial": "pyserial",
    "docx": "python-docx",
    "telegram": "python-telegram-bot",
}
_NODE_BUILTIN = frozenset(
    {
        *("assert", "async_hooks", "buffer", "child_process", "cluster", "console", "constants", "crypto", "dgram"),
        *(
            "diagnostics_channel",
            "dns",
            "domain",
            "events",
            "fs",
            "http",
            "http2",
            "https",
            "inspector",
            "module",
            "net",
        ),
        *("os", "path", "perf_hooks", "process", "punycode", "querystring", "readline", "repl", "stream", "sys"),
        *(
            "string_decoder",
            "timers",
            "tls",
            "trace_events",
            "tty",
            "url",
            "util",
            "v8",
            "vm",
            "wasi",
            "worker_threads",
        ),
        *("zlib", "fetch()"),
    }
)


def finding(code: str, severity: Severity, message: str, hint: str, place: Place | None = None) -> Diagnostic:
    """Return a diagnostic at a place."""
    file, line = place or (None, None)
    return Diagnostic(code, severity, message, file, line, hint)


def check_sources(facts: SourceFacts, output: OutputSchema | None) -> Iterator[Diagnostic]:
    """Yield what is the same in every language."""
    http = _first(facts, _HTTP_CLIENTS)
    if http is not None and not any(name in facts.mentions for name in _PROXY_VARIABLES):
        hint = "Build the proxy URL from the environment variables PROXY_AUTH and PROXY_DOMAIN."
        yield finding(
            "http_proxy_env_not_used", "error", "An HTTP client is used without the platform's proxy.", hint, http
        )
    browser = _first(facts, _BROWSERS)
    if browser is not None and not any(name in facts.mentions for name in _BROWSER_VARIABLES):
        hint = f"Connect to the endpoint in one of {', '.join(_BROWSER_VARIABLES)}."
        message = "A browser library is used without the platform's browser endpoint."
        yield finding("browser_endpoint_env_not_used", "warn", message, hint, browser)
    yield from _check_secrets(facts)
    yield from _check_results(facts, output)
    for file, line, reason in facts.unparsable:
        yield finding(
            "source_not_parsable", "warn", f"The file could not be read: {reason[:200]}.", "Check it.", (file, line)
        )


def _check_secrets(facts: SourceFacts) -> Iterator[Diagnostic]:
    for place in facts.user_agents:
        hint = "Take the user agent from the input or leave it to the platform's browser."
        yield finding("hardcoded_user_agent", "warn", "A browser's user agent is written into the source.", hint, place)
    for place in facts.proxy_credentials:
        hint = "Read them from PROXY_AUTH and remove them here; consider them leaked."
        yield finding(
            "hardcoded_proxy_credentials", "error", "Proxy credentials are written into the source.", hint, place
        )
    for place in facts.api_keys:
        hint = "Take it from the input and remove it here; consider it leaked."
        yield finding("hardcoded_api_key", "warn", "Something like an API key is written into the source.", hint, place)


def _check_results(facts: SourceFacts, output: OutputSchema | None) -> Iterator[Diagnostic]:
    for place in facts.late_headers:
        hint = "Set the table header before the first row; rows are kept either way."
        yield finding(
            "push_data_before_table_header", "warn", "The table header is set after a row was pushed.", hint, place
        )
    columns = {column.name for column in output.columns} if output is not None else None
    for key, place in facts.upserts:
        if columns is not None and key not in columns:
            message = f"The upsert key {key[:80]!r} is no column of output_schema.json."
            hint = "Add the column or upsert by a declared one."
            yield finding("upsert_unique_key_not_in_output_schema", "error", message, hint, place)


def _first(facts: SourceFacts, modules: frozenset[str]) -> Place | None:
    for imported, place in facts.imports.items():
        parts = imported.split(".")
        if imported in modules or any(".".join(parts[:count]) in modules for count in (1, 2)):
            return place
    return None


def check_python(facts: SourceFacts, declared: Mapping[str, Declared], local: frozenset[str]) -> Iterator[Diagnostic]:
    """Yield what concerns Python dependencies; `local` are the package's own top-level modules."""
    file = "requirements.txt"
    for name in ("grpcio", "protobuf"):
        if name not in declared:
            hint = f"Add {name}; until then the platform's own is used."
            message = f"{name}, which the SDK imports, is not declared."
            yield Diagnostic("missing_runtime_dependency", "error", message, file, None, hint)
    if "protobuf" in declared and not declared["protobuf"].pinned:
        line = declared["protobuf"].line
        hint = "Pin the version that generated sdk_pb2.py or a newer one, for example protobuf==6.31.1."
        yield Diagnostic("protobuf_version_not_pinned", "warn", "protobuf is not pinned with ==.", file, line, hint)
    for module, place in facts.imports.items():
        name = _distribution(module)
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top in local or name in ("grpcio", "protobuf") or name in declared:
            continue
        if not any(other.startswith(f"{name}-") or other.endswith(f"-{name}") for other in declared):
            message = f"The module {top[:80]} is imported and not declared."
            hint = f"Add {name[:80]} to requirements.txt."
            yield finding("python_dependency_not_declared", "warn", message, hint, place)
    camoufox = facts.mentions.get("CamoufoxDomain")
    if camoufox is not None and not ("playwright" in declared and declared["playwright"].pinned_to("1.49.1")):
        hint = "Write playwright==1.49.1; the remote browser speaks exactly that version's protocol."
        message = "CamoufoxDomain is used without playwright==1.49.1."
        yield finding("camoufox_playwright_not_pinned", "error", message, hint, camoufox)
    socks = facts.mentions.get("socks5")
    if socks is not None and _first(facts, frozenset({"requests"})) is not None and not _has_socks(declared):
        hint = "Write requests[socks], or add PySocks."
        message = "requests is used with a SOCKS5 proxy, which needs PySocks."
        yield finding("missing_socks_proxy_dependency", "error", message, hint, socks)


def _has_socks(declared: Mapping[str, Declared]) -> bool:
    return "pysocks" in declared or ("requests" in declared and "socks" in declared["requests"].extras)


def _distribution(module: str) -> str:
    parts = module.split(".")
    known = _PYTHON_NAMES.get(".".join(parts[:2])) or _PYTHON_NAMES.get(parts[0])
    return known or parts[0].lower().replace("_", "-")


def check_node(facts: SourceFacts, manifest: NodeManifest) -> Iterator[Diagnostic]:
    """Yield what concerns package.json and Node dependencies."""
    file = "package.json"
    if manifest.error:
        yield Diagnostic(
            "node_package_invalid", "error", f"It is not usable: {manifest.error}.", file, None, "Mend it."
        )
        return
    if manifest.main != "main.js":
        hint = 'Write "main": "main.js"; the platform starts `node main.js` in any case.'
        yield Diagnostic("node_package_main_not_main_js", "error", "`main` is not main.js.", file, None, hint)
    if manifest.type not in (None, "commonjs"):
        hint = "Remove `type`; the SDK is a CommonJS module."
        yield Diagnostic("node_package_type_not_commonjs", "error", "`type` is not commonjs.", file, None, hint)
    for name in ("@grpc/grpc-js", "google-protobuf"):
        if name not in manifest.dependencies:
            message = f"{name}, which the SDK requires, is not declared."
            yield Diagnostic("missing_runtime_dependency", "error", message, file, None, f"Run `npm install {name}`.")
    for module, place in facts.imports.items():
        name = "/".join(module.split("/")[: 2 if module.startswith("@") else 1])
        if (
            module.startswith((".", "/", "node:", "#"))
            or name in _NODE_BUILTIN
            or name in manifest.dependencies
            or not name
        ):
            continue
        hint = f"Add {name[:80]} to the dependencies in package.json."
        if name == "socks-proxy-agent":
            message = "socks-proxy-agent is used and not declared."
            yield finding("missing_socks_proxy_dependency", "error", message, hint, place)
        elif name not in ("@grpc/grpc-js", "google-protobuf"):
            message = f"The module {name[:80]} is required and not declared."
            yield finding("node_dependency_not_declared", "warn", message, hint, place)
    agent = facts.imports.get("socks-proxy-agent")
    if agent is not None and "axios" in facts.imports and not facts.proxy_disabled:
        hint = "Pass `proxy: false` together with the agents, or axios ignores them."
        yield finding("axios_proxy_not_disabled", "warn", "axios is used with a SOCKS agent.", hint, agent)


def check_go(modules: Mapping[str, tuple[str, int]], sums: set[tuple[str, str]]) -> Iterator[Diagnostic]:
    """Yield what concerns go.mod and go.sum, where a package carries them."""
    for name in ("google.golang.org/grpc", "google.golang.org/protobuf"):
        if name not in modules:
            message = f"{name}, which the SDK imports, is not required."
            yield Diagnostic("missing_runtime_dependency", "error", message, "go.mod", None, f"Run `go get {name}`.")
    for name, (version, line) in modules.items():
        if (name, version) not in sums:
            message = f"go.sum has no checksum for {name} {version}."
            yield Diagnostic("go_missing_module_checksum", "error", message, "go.mod", line, "Run `go mod tidy`.")
