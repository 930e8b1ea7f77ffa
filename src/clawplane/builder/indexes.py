"""Find out where this host gets its Python packages, the way its own tools would.

Theory of operation
    uv reads its variables and uv.toml, but not pip's configuration, which is what most hosts have. So both are read
    here, once, outside the sandbox, and handed to uv as variables. The first of these that names a value wins: `UV_*`
    variables, uv.toml (user, then system), `PIP_*` variables, pip's files (user, then site and global), uv's own
    default, which is read from uv itself. Credentials (in addresses, in UV_INDEX_NAME_PASSWORD, in a netrc file) are
    taken out of the addresses here and kept for the gate, which adds them outside the sandbox; they are in no child's
    environment, argument or log. pip looks at all its indexes and takes the best version; where the extra indexes
    come from pip's configuration, uv is told to do the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import netrc
import os
import re
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

from clawplane.builder.gate import Destination

_PASSED_ON = (
    "UV_INDEX_STRATEGY",
    "UV_PRERELEASE",
    "UV_RESOLUTION",
    "UV_EXCLUDE_NEWER",
    "UV_TORCH_BACKEND",
    "UV_SYSTEM_CERTS",
    "UV_NATIVE_TLS",
    "UV_HTTP_TIMEOUT",
    "UV_HTTP_CONNECT_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_CONCURRENT_DOWNLOADS",
    "UV_CONCURRENT_BUILDS",
    "UV_CONCURRENT_INSTALLS",
)
_DECIDING = frozenset(_PASSED_ON[:5])
_CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class PackageIndexes:
    """Where packages come from. Addresses carry no credentials; those are in `authorizations`, by destination.

    default None means that only `links` are used; links are addresses or directories.
    """

    default: str | None
    extra: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    certificates: Path | None = None
    insecure_hosts: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    authorizations: Mapping[Destination, str] = field(default_factory=dict, repr=False)

    @property
    def addresses(self) -> tuple[str, ...]:
        """All index addresses, the one with the last word first."""
        return ((self.default,) if self.default else ()) + self.extra

    @property
    def digest(self) -> str:
        """Sum up what decides which packages an installer chooses; credentials, certificates and time limits do not."""
        deciding = {name: value for name, value in self.settings.items() if name in _DECIDING}
        content = json.dumps([self.default, self.extra, self.links, sorted(deciding.items())])
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def directories(self) -> tuple[Path, ...]:
        """Local directories an installer has to read; an index in `.../simple` links to its neighbours."""
        found: list[Path] = []
        for address in (*self.addresses, *self.links):
            path = _local_path(address)
            if path is not None and path.exists():
                found.append(path.parent if path.name == "simple" and path.parent != path.parent.parent else path)
        return tuple(dict.fromkeys(found))

    def trust(self, host: str) -> ssl.SSLContext:
        """Make the TLS context for a host, as strict as the operator's configuration wants it."""
        context = ssl.create_default_context(cafile=str(self.certificates) if self.certificates else None)
        if host in {urlsplit(f"//{entry}").hostname for entry in self.insecure_hosts}:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def read_indexes(
    environ: Mapping[str, str], *, uv: Path, python_prefix: Path = Path(sys.base_prefix)
) -> PackageIndexes:
    """Collect the configuration from variables, files and uv itself. Files that cannot be parsed raise ValueError."""
    uv_files = _read_uv_files(environ)
    pip = _read_pip(environ, python_prefix)
    named = _uv_indexes(environ, uv_files)
    pip_extra = _words(pip.get("extra-index-url"))
    no_index = _truth(environ.get("UV_NO_INDEX")) or bool(uv_files.get("no-index")) or _truth(pip.get("no-index"))
    default = (
        environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL") or named.default or pip.get("index-url") or ""
    )
    if not default and not no_index:
        default = _default_of_uv(uv)
    extra = named.extra or pip_extra
    links = re.split(r"[,\s]+", environ.get("UV_FIND_LINKS", "")) + _strings(uv_files.get("find-links"))
    links = [link for link in links if link] or _words(pip.get("find-links"))
    settings = {name: environ[name] for name in _PASSED_ON if environ.get(name)}
    if "index-strategy" in uv_files:
        settings.setdefault("UV_INDEX_STRATEGY", str(uv_files["index-strategy"]))
    if not named.extra and pip_extra:
        settings.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    if pip.get("default-timeout") or pip.get("timeout"):
        settings.setdefault("UV_HTTP_TIMEOUT", pip.get("default-timeout") or pip["timeout"])
    insecure = re.split(r"[,\s]+", environ.get("UV_INSECURE_HOST", "")) + _strings(uv_files.get("allow-insecure-host"))
    insecure += _words(pip.get("trusted-host"))
    keeper = _Keeper(environ, dict(named.passwords))
    return PackageIndexes(
        default=None if no_index else keeper.strip(default),
        extra=() if no_index else tuple(dict.fromkeys(keeper.strip(address) for address in extra)),
        links=tuple(dict.fromkeys(keeper.strip(link) for link in links)),
        certificates=_certificates(environ, pip),
        insecure_hosts=tuple(dict.fromkeys(host for host in insecure if host)),
        settings=settings,
        authorizations=keeper.authorizations,
    )


def destination_of(address: str) -> Destination | None:
    """Name the host and port an address leads to; None for local paths."""
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return None
    return Destination(parts.hostname.rstrip(".").lower(), parts.port or (443 if parts.scheme == "https" else 80))


@dataclass(frozen=True, slots=True)
class _UvIndexes:
    default: str | None
    extra: list[str]
    passwords: dict[str, tuple[str, str]]


def _uv_indexes(environ: Mapping[str, str], files: Mapping[str, object]) -> _UvIndexes:
    """Read uv's own indexes; passwords by address: (user, password)."""
    default: str | None = None
    extra: list[str] = []
    passwords: dict[str, tuple[str, str]] = {}
    entries: list[tuple[str, str, bool]] = []
    for word in environ.get("UV_INDEX", "").split():
        name, separator, address = word.partition("=")
        entries.append((name, address, False) if separator and "/" not in name else ("", word, False))
    for entry in _tables(files.get("index")):
        if not entry.get("explicit"):
            entries.append((str(entry.get("name", "")), str(entry.get("url", "")), bool(entry.get("default"))))
    for name, address, is_default in entries:
        variable = re.sub(r"[^A-Za-z0-9]", "_", name).upper()
        password = environ.get(f"UV_INDEX_{variable}_PASSWORD")
        if name and password is not None:
            passwords[address] = (environ.get(f"UV_INDEX_{variable}_USERNAME", ""), password)
        if is_default:
            default = default or address
        elif address:
            extra.append(address)
    extra += _words(environ.get("UV_EXTRA_INDEX_URL")) or _strings(files.get("extra-index-url"))
    from_file = files.get("index-url")
    return _UvIndexes(default or (str(from_file) if from_file else None), extra, passwords)


def _read_uv_files(environ: Mapping[str, str]) -> dict[str, object]:
    """Merge uv.toml of the user over the system's; its [pip] table wins over the top level, as in uv."""
    if _truth(environ.get("UV_NO_CONFIG")):
        return {}
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config")
    paths = [Path("/etc/uv/uv.toml"), home / "uv" / "uv.toml"]
    if environ.get("UV_CONFIG_FILE"):
        paths = [Path(environ["UV_CONFIG_FILE"])]
    merged: dict[str, object] = {}
    for path in paths:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot be read as TOML: {error}") from None
        section = content.get("pip")
        merged |= content | (section if isinstance(section, dict) else {})
    return merged


def _read_pip(environ: Mapping[str, str], prefix: Path) -> dict[str, str]:
    """Merge pip's files in pip's own order, [install] over [global], and its variables over all of them."""
    home = Path(environ.get("HOME", "/"))
    own = environ.get("PIP_CONFIG_FILE")
    paths = [Path(root) / "pip" / "pip.conf" for root in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if root]
    paths.append(Path("/etc/pip.conf"))
    paths += [home / ".pip" / "pip.conf", Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"]
    paths.append(prefix / "pip.conf")
    if own:
        paths = [] if own == os.devnull else [*paths, Path(own)]
    merged: dict[str, str] = {}
    for path in paths:
        parser = ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (ConfigError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot be read: {type(error).__name__}") from None
        for section in ("global", "install"):
            if parser.has_section(section):
                merged |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            merged[name[4:].lower().replace("_", "-")] = value
    return merged


class _Keeper:
    """Takes credentials out of addresses and remembers them by destination."""

    def __init__(self, environ: Mapping[str, str], passwords: dict[str, tuple[str, str]]) -> None:
        self.authorizations: dict[Destination, str] = {}
        self._passwords = passwords
        self._netrc = _read_netrc(environ)

    def strip(self, address: str) -> str:
        """Return the address without credentials."""
        destination = destination_of(address)
        if destination is None:
            return address
        parts = urlsplit(address)
        login: tuple[str, str] | None = self._passwords.get(address)
        if parts.username is not None:
            login = (unquote(parts.username), unquote(parts.password or ""))
        elif login is None and self._netrc is not None:
            found = self._netrc.authenticators(destination.host)
            login = (found[0], found[2] or "") if found else None
        if login is not None:
            token = base64.b64encode(f"{login[0]}:{login[1]}".encode()).decode("ascii")
            self.authorizations[destination] = f"Basic {token}"
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _read_netrc(environ: Mapping[str, str]) -> netrc.netrc | None:
    path = Path(environ.get("NETRC") or Path(environ.get("HOME", "/")) / ".netrc")
    try:
        return netrc.netrc(str(path))
    except (OSError, netrc.NetrcParseError):
        return None


def _default_of_uv(uv: Path) -> str:
    """Read the address uv would use from its own help text."""
    asked = subprocess.run(
        [str(uv), "pip", "install", "--help"], capture_output=True, text=True, check=True, timeout=30
    )
    found = re.search(r"by default:\s*<(https?://[^>\s]+)>", asked.stdout)
    if found is None:
        raise ValueError("uv does not say which package index it uses by default; set UV_DEFAULT_INDEX.")
    return found[1]


def _certificates(environ: Mapping[str, str], pip: Mapping[str, str]) -> Path | None:
    candidates = [environ.get(_CERTIFICATES[0]), pip.get("cert"), *(environ.get(name) for name in _CERTIFICATES[2:])]
    candidates.append(ssl.get_default_verify_paths().cafile)
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    return bundle if bundle.is_file() else None


def _local_path(address: str) -> Path | None:
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(address).absolute() if not parts.scheme else None


def _words(value: str | None) -> list[str]:
    return (value or "").split()


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(entry) for entry in value] if isinstance(value, Sequence) else []


def _tables(value: object) -> list[dict[str, object]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _truth(value: str | None) -> bool:
    return (value or "").strip().lower() in {"1", "true", "yes", "on", "y", "t"}
