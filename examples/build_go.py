"""Build a Go Worker and pack it: `python examples/build_go.py DIRECTORY [WORKER.zip]`.

Builds `DIRECTORY/main` with CGO_ENABLED=0 for linux/amd64. A project with a `go.sum` is built with its modules; one
without is built in GOPATH mode against the distribution's source packages, which needs no network (Debian: golang-go,
golang-google-grpc-dev, golang-google-protobuf-dev and golang-github-golang-protobuf-1-5-dev; the 1-3 variant of the last
compiles, and then panics at the first message). With a second argument, everything a Worker needs at run time goes into
a ZIP in which `main` has its execute bit, whatever system packs it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

DISTRIBUTION_GOPATH = "/usr/share/gocode"
DISTRIBUTION_PACKAGES = (
    "golang-go golang-google-grpc-dev golang-google-protobuf-dev golang-github-golang-protobuf-1-5-dev"
)
MODULE = "worker"  # what the sources call themselves in go.mod and import GoSdk from
LEFT_OUT = {".go", ".mod", ".sum"}


class BuildError(Exception):
    """The Worker cannot be built; the message says why."""


def build(project: Path) -> Path:
    """Build `project/main` and return its path."""
    if shutil.which("go") is None:
        raise BuildError(f"Go is not installed: apt-get install {DISTRIBUTION_PACKAGES}")
    output = project.resolve() / "main"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": "amd64"}
    with tempfile.TemporaryDirectory(prefix="go-worker-") as scratch:
        if (project / "go.sum").exists():
            directory = project
        else:
            # GOPATH mode finds packages by their place below src
            directory = Path(scratch) / "src" / MODULE
            shutil.copytree(project, directory)
            environment |= {"GO111MODULE": "off", "GOPATH": f"{scratch}:{DISTRIBUTION_GOPATH}", "GOFLAGS": ""}
        command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(output), "."]
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0 and "cannot find package" in done.stderr:
        raise BuildError(f"a library is missing: apt-get install {DISTRIBUTION_PACKAGES}\n{done.stderr.strip()}")
    if done.returncode != 0:
        raise BuildError(f"go build failed in {project}:\n{done.stderr.strip()}")
    output.chmod(0o755)
    return output


def pack(project: Path, archive: Path) -> Path:
    """Write the run-time files of a built project into a ZIP and return its path."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(project.rglob("*")):
            if not path.is_file() or path.suffix in LEFT_OUT or path.name.startswith(".") or path == archive:
                continue
            entry = zipfile.ZipInfo(path.relative_to(project).as_posix(), date_time=(2026, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix: only then do archive tools read the mode
            mode = 0o755 if path == project / "main" else 0o644
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, path.read_bytes())
    return archive


def main() -> int:
    """Do what the module says."""
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    project = Path(sys.argv[1])
    try:
        print(build(project))
        if len(sys.argv) == 3:
            print(pack(project, Path(sys.argv[2])))
    except (BuildError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
