"""Read a requirements file as data: names, versions, markers and hashes, and nothing that changes where they come from.

Which index is asked, and whose code may run, is the operator's decision and not the package author's. So a requirement
is accepted when it is `name[extras] versions ; marker --hash=...`, and everything that points elsewhere is refused with
its line: other files, editable and local paths, addresses, version control, index options.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from clawplane.builder.errors import ManifestRefused

FILE_NAME = "requirements.txt"
MAXIMUM_BYTES = 1 << 20
MAXIMUM_REQUIREMENTS = 2_000

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_CLAUSE = r"(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9][A-Za-z0-9.!+*_-]*"
_REQUIREMENT = re.compile(
    rf"(?P<name>{_NAME})\s*"
    rf"(?:\[\s*(?P<extras>{_NAME}(?:\s*,\s*{_NAME})*)?\s*\])?\s*"
    rf"(?:\(\s*(?P<enclosed>{_CLAUSE}(?:\s*,\s*{_CLAUSE})*)\s*\)|(?P<versions>{_CLAUSE}(?:\s*,\s*{_CLAUSE})*))?\s*,?\s*"
    r"(?:;\s*(?P<marker>[A-Za-z0-9_ \t.,'\"<>=!~()+*-]+?))?\s*"
)
_HASH = re.compile(r"\s--hash[=\s]\s*(?P<hash>(?:sha256|sha384|sha512):[0-9a-fA-F]{64,128})(?=\s|$)")
_COMMENT = re.compile(r"(^|\s)#.*$")
_DIRECT = re.compile(rf"{_NAME}\s*(?:\[[^\]]*\])?\s*@\s*\S|(?:git|hg|svn|bzr)\+|[A-Za-z][A-Za-z0-9+.-]*://|file:")
_LOCAL = re.compile(r"[./~\\]|[A-Za-z]:[\\/]|.*\.(?:whl|zip|tar\.gz|tar\.bz2|tgz|txt)(?:\s|$)|[^;\s\[]*[/\\]")

_PLACES = "Packages come from the index that the operator configured."
_OPTIONS = {
    "-r": ("includes another file.", "Write its lines into requirements.txt itself."),
    "-c": ("includes a constraints file.", "Write the versions into requirements.txt itself."),
    "-e": ("asks for an editable install.", "Put the code beside main.py and import it from there."),
    "-i": ("chooses a package index.", f"Remove it. {_PLACES}"),
    "-f": ("chooses a place to find packages.", f"Remove it. {_PLACES}"),
    "--no-index": ("switches the package index off.", f"Remove it. {_PLACES}"),
    "--trusted-host": ("chooses a host to trust.", f"Remove it. {_PLACES}"),
    "--pre": ("allows every pre-release.", "Name the pre-release you want, as in `package>=2.0b1`."),
    "--no-binary": ("demands a source build.", "Remove it. A source is built when there is no wheel."),
}
_LONG = {
    "--requirement": "-r",
    "--constraint": "-c",
    "--editable": "-e",
    "--index-url": "-i",
    "--extra-index-url": "-i",
    "--pypi-url": "-i",
    "--find-links": "-f",
}
_HARMLESS = frozenset({"--prefer-binary", "--only-binary", "--disable-pip-version-check", "--no-cache-dir"})


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement in normal form: `name` as the index spells it, everything else sorted and without spaces."""

    name: str
    extras: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    marker: str = ""
    hashes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = self.name
        if self.extras:
            text += f"[{','.join(self.extras)}]"
        text += ",".join(self.versions)
        if self.marker:
            text += f" ; {self.marker}"
        return text + "".join(f" --hash={value}" for value in self.hashes)


@dataclass(frozen=True, slots=True)
class RequirementFile:
    """What a requirements file says: its requirements, and whether every one of them must match a hash."""

    requirements: tuple[Requirement, ...]
    hashes_demanded: bool


def canonical_name(name: str) -> str:
    """Spell a project name the way an index does: lower case, runs of `-_.` as one dash."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_requirements(content: bytes, *, maximum: int = MAXIMUM_BYTES) -> RequirementFile:
    """Parse the bytes of a requirements file, or raise ManifestRefused for its first line that cannot be accepted."""
    if len(content) > maximum:
        raise ManifestRefused(FILE_NAME, 0, f"is larger than {maximum} bytes.", "List only direct dependencies.")
    requirements: list[Requirement] = []
    demanded = False
    for number, line in _logical_lines(_decode(content)):
        if line.startswith("-"):
            demanded = _accept_option(number, line) or demanded
        else:
            requirements.append(_parse(number, line))
        if len(requirements) > MAXIMUM_REQUIREMENTS:
            raise ManifestRefused(
                FILE_NAME, number, f"has more than {MAXIMUM_REQUIREMENTS} requirements.", "List direct ones only."
            )
    return RequirementFile(tuple(requirements), demanded)


def _decode(content: bytes) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark, which is what a Windows shell writes on redirection."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestRefused(FILE_NAME, 0, "is neither UTF-8 nor UTF-16 text.", "Save it as UTF-8.") from None
    if "\0" in text:
        raise ManifestRefused(FILE_NAME, 0, "contains a NUL character.", "Save it as UTF-8 text.")
    return text


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of its first line, content) with continuations joined and comments and blanks left out."""
    pending, start = "", 0
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        start = start or number
        stripped = _COMMENT.sub("", raw)
        if stripped == raw and raw.endswith("\\"):
            pending += raw[:-1] + " "
            continue
        line = (pending + stripped).strip()
        if line:
            yield start, line
        pending, start = "", 0
    if pending.strip():
        yield start, pending.strip()


def _accept_option(number: int, line: str) -> bool:
    """Return whether the option demands hashes; raise when it is not one that may stand in a Worker's file."""
    option = re.split(r"[=\s]", line, maxsplit=1)[0]
    if option == "--require-hashes":
        return True
    if option in _HARMLESS:
        return False
    short = _LONG.get(option, option if option.startswith("--") else option[:2])
    reason, hint = _OPTIONS.get(short, ("is not accepted here.", "Remove the line."))
    raise ManifestRefused(FILE_NAME, number, f"the option {option[:40]} {reason}", hint)


def _parse(number: int, line: str) -> Requirement:
    hashes = tuple(sorted({match["hash"].lower() for match in _HASH.finditer(line)}))
    body = _HASH.sub("", line).strip()
    shown = _shown(body)
    if _DIRECT.match(body):
        raise ManifestRefused(FILE_NAME, number, f"{shown} is installed from an address.", f"Name a version. {_PLACES}")
    if _LOCAL.match(body):
        raise ManifestRefused(
            FILE_NAME, number, f"{shown} is a local file.", "Put the code beside main.py, or name a published version."
        )
    if " --" in body or " -" in body.partition(";")[0]:
        raise ManifestRefused(
            FILE_NAME, number, f"{shown} carries an option.", "Only --hash=sha256:... may follow a requirement."
        )
    match = _REQUIREMENT.fullmatch(body)
    if match is None:
        raise ManifestRefused(
            FILE_NAME, number, f"{shown} is no requirement.", "Write it as `name`, `name==1.2` or `name>=1,<2`."
        )
    versions = match["enclosed"] or match["versions"] or ""
    return Requirement(
        name=canonical_name(match["name"]),
        extras=tuple(sorted({canonical_name(part.strip()) for part in (match["extras"] or "").split(",") if part})),
        versions=tuple(sorted(re.sub(r"\s+", "", part) for part in versions.split(",") if part.strip())),
        marker=" ".join((match["marker"] or "").split()),
        hashes=hashes,
    )


def _shown(body: str) -> str:
    """Quote the start of a refused line without the password that an address may carry."""
    return repr(re.sub(r"//[^/@\s]*@", "//", body)[:80])
