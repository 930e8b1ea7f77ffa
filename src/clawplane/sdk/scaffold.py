"""Write the files a new Worker starts with: a small program that works, its schemas, and the SDK files."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

LANGUAGES = ("python", "node", "go")

_PLACEHOLDER = "worker-name"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class ScaffoldError(ValueError):
    """A Worker cannot be written there, or not under that name; the message says why and what to do."""


def scaffold(language: str, name: str, target: Path) -> list[Path]:
    """Write a new Worker into `target`, which may exist but may hold none of its files; return the files written."""
    if language not in LANGUAGES:
        raise ScaffoldError(f"language {language!r} is unknown: use one of {', '.join(LANGUAGES)}")
    if not _NAME.fullmatch(name):
        raise ScaffoldError(
            f"name {name!r} does not fit: use up to 63 lower case letters, digits and hyphens, and begin with a letter"
            " or a digit"
        )
    wanted = {target / path: content for path, content in _template(files(__package__) / "templates" / language)}
    taken = sorted(str(path.relative_to(target)) for path in wanted if path.exists() or path.is_symlink())
    if taken:
        raise ScaffoldError(f"{target} already has {', '.join(taken)}: choose another directory, or move them away")
    try:
        for path, content in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(content.replace(_PLACEHOLDER, name))
    except OSError as error:
        raise ScaffoldError(f"cannot write {error.filename}: {error.strerror}") from error
    return sorted(wanted)


def _template(directory: Traversable, prefix: str = "") -> list[tuple[str, str]]:
    """Return path and text of every file of a template."""
    found = []
    for entry in directory.iterdir():
        if entry.is_dir():
            if entry.name != "__pycache__":
                found += _template(entry, f"{prefix}{entry.name}/")
        else:
            found.append((prefix + entry.name, entry.read_text(encoding="utf-8")))
    return found
