"""Write the few files of /etc that programs insist on, and none that says anything about the host."""

from __future__ import annotations

import os
from typing import Final

from clawplane.sandbox import mounts
from clawplane.sandbox.identity import INNER_ID
from clawplane.sandbox.policy import Policy

_COPIED: Final = (
    "ld.so.cache",
    "localtime",
    "mime.types",
    "protocols",
    "services",
    "ssl/openssl.cnf",
    "pki/tls/openssl.cnf",
)
_BOUND: Final = ("alternatives", "fonts", "ssl/certs", "pki/tls/certs", "pki/ca-trust/extracted", "ca-certificates")
_PER_GUEST: Final = ("hosts", "resolv.conf", "hostname")
_LARGEST_COPY: Final = 1 << 20

_PASSWD: Final = f"""root:x:0:0:root:/root:/usr/sbin/nologin
worker:x:{INNER_ID}:{INNER_ID}:worker:/tmp:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP: Final = f"root:x:0:\nworker:x:{INNER_ID}:\nnogroup:x:65534:\n"
_SWITCH: Final = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"
_HOSTS: Final = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
_NO_RESOLVER: Final = "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n"


def fill(directory: str) -> None:
    """Fill an empty /etc that is shared by guests; what differs between them is linked into /run."""
    for name, content in (("passwd", _PASSWD), ("group", _GROUP), ("nsswitch.conf", _SWITCH)):
        _write(f"{directory}/{name}", content.encode())
    for name in _PER_GUEST:
        os.symlink(f"../run/{name}", f"{directory}/{name}")
    os.symlink("../proc/self/mounts", f"{directory}/mtab")
    for name in _COPIED:
        _copy(name, directory)
    for name in _BOUND:
        if os.path.isdir(f"/etc/{name}"):
            os.makedirs(f"{directory}/{name}", exist_ok=True)
            mounts.bind(f"/etc/{name}", f"{directory}/{name}", mounts.SEALED)


def write_run(directory: str, policy: Policy) -> None:
    """Write the files of one guest: its names, its resolver, its host name."""
    hosts = [_HOSTS, f"127.0.1.1 {policy.host_name}\n"]
    hosts.extend(f"{address} {name}\n" for name, address in policy.names.items())
    resolver = _NO_RESOLVER
    if policy.network == "host":
        hosts.append(_read("/etc/hosts"))
        resolver = _read("/etc/resolv.conf") or _NO_RESOLVER
    _write(f"{directory}/hosts", "".join(hosts).encode())
    _write(f"{directory}/resolv.conf", resolver.encode())
    _write(f"{directory}/hostname", f"{policy.host_name}\n".encode())


def _copy(name: str, directory: str) -> None:
    try:
        with open(f"/etc/{name}", "rb", buffering=0) as file:
            content = file.read(_LARGEST_COPY)
    except OSError:
        return
    os.makedirs(os.path.dirname(f"{directory}/{name}"), exist_ok=True)
    _write(f"{directory}/{name}", content)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_LARGEST_COPY)
    except OSError:
        return ""


def _write(path: str, content: bytes) -> None:
    with open(path, "xb", buffering=0) as file:
        file.write(content)
