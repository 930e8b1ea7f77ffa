"""A Python file in a forked interpreter behaves as if `python file` had been typed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox.launch import Zygote
from clawplane.sandbox.policy import Policy, ReadOnly
from clawplane.sandbox.zygote import ZygoteError

ENDINGS = {
    "ends": "print('fine')",
    "exits with a number": "import sys; sys.exit(3)",
    "exits with None": "raise SystemExit",
    "exits with a sentence": "raise SystemExit('a sentence')",
    "raises": "def inner():\n    raise ValueError('boom')\ninner()",
    "raises from another": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e",
    "does not compile": "print('x'",
    "is interrupted": "raise KeyboardInterrupt",
    "leaves at once": "import os; print('lost?', flush=True); os._exit(7)",
    "has a hook": "import sys\nsys.excepthook = lambda *a: print('hooked', a[0].__name__)\n1 / 0",
    "has a broken hook": "import sys\nsys.excepthook = lambda *a: 1 / 0\nraise ValueError",
    "exits in atexit order": "import atexit\nfor n in 'ab': atexit.register(print, n)\nprint('main')",
    "waits for threads": "import threading, time\nthreading.Timer(0.1, print, ['thread']).start()\nprint('main')",
    "flushes open files": "import sys\nf = open('/dev/stdout', 'w')\nf.write('kept')",
    "kills itself": "import os; os.abort()",
    "warns": "import warnings; warnings.warn('careful')",
    "tells its name": "print(__name__, __file__, __spec__, __package__, __doc__, __builtins__)",
    "tells its globals": "print(sorted(globals()))",
    "annotates": "x: int = 1\nprint(__annotations__)",
    "tells its arguments": "import sys; print(sys.argv, sys.executable, sys.prefix, sys.path[:4])",
    "reads nothing": "import sys; print(repr(sys.stdin.read()))",
    "has streams": (
        "import sys; print([(s.name, s.encoding, s.isatty(), s.line_buffering) for s in (sys.stdout, sys.stderr)])"
    ),
    "pickles its own": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))))",
    "finds its neighbour": "import neighbour; print(neighbour.VALUE)",
    "is not isolated": "import sys; print(sys.flags.isolated, sys.flags.safe_path, sys.dont_write_bytecode)",
}
MULTIPROCESSING = """
import multiprocessing as mp, os
from concurrent.futures import ProcessPoolExecutor
def square(x): return x * x
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        with mp.get_context(method).Pool(2) as pool: print(method, pool.map(square, range(4)))
    with ProcessPoolExecutor(2) as pool: print(list(pool.map(square, range(3))))
"""
GRPC = """
import grpc, grpc.aio, sys, asyncio
from concurrent import futures
from google.protobuf import struct_pb2
print("warm" if WARM else "cold")
class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request + b"!")
server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((Echo(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    print(channel.unary_unary("/a/b")(b"hello"))
async def main():
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        print(await channel.unary_unary("/a/b")(b"again"))
asyncio.run(main())
server.stop(None)
"""


@pytest.mark.parametrize("source", ENDINGS.values(), ids=ENDINGS.keys())
async def test_a_file_behaves_as_it_would_from_the_command_line(guests: Any, source: str) -> None:
    script = guests.directory / "main.py"
    script.write_text(source)
    (guests.directory / "neighbour.py").write_text("VALUE = 1")
    expected = subprocess.run(
        [guests.python, str(script), "one"],
        env={"PATH": "/usr/bin", "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    zygote = await guests.sandbox.zygote(key="same", python=guests.python)
    same_place = Policy(
        mounts=(ReadOnly(str(guests.directory), str(guests.directory)),), working_directory=str(guests.directory)
    )
    process = await guests.sandbox.run_python(
        zygote, same_place, str(script), interpreter=guests.python, site_directories=(), arguments=["one"]
    )
    ended = await guests.finish(process)
    assert (ended.stdout, ended.stderr) == (expected.stdout, expected.stderr)
    code = -ended.verdict.signal if ended.verdict.signal else ended.verdict.exit_code
    assert code == expected.returncode


async def test_every_kind_of_multiprocessing_works(guests: Any) -> None:
    ended = await guests.run_python(MULTIPROCESSING)
    squares = [f"{method} [0, 1, 4, 9]" for method in ("fork", "spawn", "forkserver")]
    assert ended.stdout.splitlines() == [*squares, "[0, 1, 4]"], ended.stderr


async def test_subprocesses_tell_how_they_ended(guests: Any) -> None:
    source = "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'raise SystemExit(3)']).returncode)"
    assert (await guests.run_python(source)).stdout == "3\n"


async def test_python_variables_of_the_policy_are_obeyed(guests: Any, tmp_path: Path) -> None:
    source = "import sys; print(sys.path[1], sys.dont_write_bytecode, sys.stdout.write_through)"
    variables = {"PYTHONPATH": "/app/lib", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    assert (await guests.run_python(source, environment=variables)).stdout == "/app/lib True True\n"


async def test_site_directories_come_with_their_pth_files_after_the_standard_library(guests: Any) -> None:
    site = guests.directory / "site"
    (site / "more").mkdir(parents=True)
    (site / "packaged.py").write_text("print('packaged')")
    (site / "more/deeper.py").write_text("print('deeper')")
    (site / "extra.pth").write_text("more\n")
    (guests.directory / "main.py").write_text("import packaged, deeper, sys; print(sys.path[-2:])")
    process = await guests.sandbox.run_python(
        await guests.sandbox.zygote(key="site", python=guests.python),
        guests.policy(),
        "/app/main.py",
        interpreter=guests.python,
        site_directories=["/app/site"],
    )
    ended = await guests.finish(process)
    assert ended.stdout.splitlines() == ["packaged", "deeper", "['/app/site', '/app/site/more']"], ended.stderr


async def test_the_prefix_is_that_of_the_interpreters_virtual_environment(guests: Any) -> None:
    (guests.directory / "env/bin").mkdir(parents=True)
    (guests.directory / "env/bin/python").symlink_to(guests.python)
    (guests.directory / "env/pyvenv.cfg").write_text(f"home = {Path(guests.python).parent}\n")
    source = """
import subprocess, sys
print(sys.prefix, sys.executable, sys.prefix != sys.base_prefix)
print(subprocess.run([sys.executable, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True).stdout)
"""
    (guests.directory / "main.py").write_text(source)
    process = await guests.sandbox.run_python(
        await guests.sandbox.zygote(key="venv", python=guests.python),
        guests.policy(),
        "/app/main.py",
        interpreter="/app/env/bin/python",
        site_directories=(),
    )
    ended = await guests.finish(process)
    assert ended.stdout.split() == ["/app/env", "/app/env/bin/python", "True", "/app/env"]


async def test_what_one_guest_changes_in_a_warm_module_no_other_sees(guests: Any) -> None:
    source = "import json, random; print(hasattr(json, 'mark'), random.random()); json.mark = 1"
    outputs = [(await guests.run_python(source)).stdout.split() for _ in range(3)]
    assert [each[0] for each in outputs] == ["False"] * 3
    assert len({each[1] for each in outputs}) == 3


async def test_preloaded_modules_are_warm_and_their_directory_is_visible(guests: Any, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "warmth").mkdir(parents=True)
    (shared / "warmth/__init__.py").write_text("import os; PID = os.getpid()")
    (shared / "warmth/late.py").write_text("VALUE = 5")
    zygote = await _zygote_with(guests, shared, "warmth")
    source = "import sys; print('warmth' in sys.modules); import warmth, warmth.late, os; print(warmth.late.VALUE)"
    (guests.directory / "main.py").write_text(source)
    process = await guests.sandbox.run_python(
        zygote, guests.policy(), "/app/main.py", interpreter=guests.python, site_directories=()
    )
    assert (await guests.finish(process)).stdout == "True\n5\n"


TALKATIVE = """
import ctypes, io, sys
print("a line")
print("half a line", end="")
print("half a complaint", end="", file=sys.stderr)
ctypes.CDLL(None).printf(b"from C")
sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False))
print("through a stream of its own")
"""


async def test_what_preloaded_modules_print_is_in_no_guests_output(guests: Any, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "talkative.py").write_text(TALKATIVE)
    zygote = await _zygote_with(guests, shared, "talkative")
    (guests.directory / "main.py").write_text("import sys; print('mine', sys.stdout is sys.__stdout__)")
    for _ in range(2):
        process = await guests.sandbox.run_python(
            zygote, guests.policy(), "/app/main.py", interpreter=guests.python, site_directories=()
        )
        ended = await guests.finish(process)
        assert (ended.stdout, ended.stderr) == ("mine True\n", "")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()", "threads"),
        ("import no_such_module_at_all", "no_such_module_at_all"),
        ("import os; os._exit(9)", "it ended at once"),
    ],
)
async def test_a_module_that_cannot_be_preloaded_says_why(guests: Any, tmp_path: Path, source: str, words: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "awkward.py").write_text(source)
    with pytest.raises(ZygoteError, match=words):
        await _zygote_with(guests, shared, "awkward")


async def test_an_interpreter_that_does_not_exist_says_so(guests: Any) -> None:
    with pytest.raises(ZygoteError, match="cannot start /no/python: No such file"):
        await guests.sandbox.zygote(key="none", python="/no/python")


async def test_an_interpreter_with_a_prefix_of_its_own_below_a_closed_directory_works(
    guests: Any, tmp_path: Path
) -> None:
    prefix = tmp_path / "closed/prefix"
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "lib").mkdir()
    shutil.copy(guests.python, prefix / "bin" / name)
    (prefix / "bin/python").symlink_to(name)
    (prefix / "lib" / name).symlink_to(Path(os.__file__).parent)
    (tmp_path / "closed").chmod(0o700)
    own = str(prefix / "bin/python")
    zygote = await guests.sandbox.zygote(key="own prefix", python=own)
    (guests.directory / "main.py").write_text(
        "import subprocess, sys; print(sys.prefix, flush=True); subprocess.run([sys.executable, '-c', 'print(6)'])"
    )
    process = await guests.sandbox.run_python(
        zygote, guests.policy(), "/app/main.py", interpreter=own, site_directories=()
    )
    ended = await guests.finish(process)
    assert ended.stdout.split() == [str(prefix), "6"], ended.stderr


@pytest.mark.parametrize("warm", [True, False])
async def test_grpc_works_in_a_fork_whether_it_was_preloaded_or_not(guests: Any, warm: bool) -> None:
    grpc = pytest.importorskip("grpc")
    packages = str(Path(grpc.__file__).parents[1])
    preload = ["grpc", "google.protobuf.struct_pb2"] if warm else []
    zygote = await guests.sandbox.zygote(key="grpc", python=guests.python, preload=preload, site_directories=[packages])
    (guests.directory / "main.py").write_text(f"import sys; WARM = 'grpc' in sys.modules\n{GRPC}")
    process = await guests.sandbox.run_python(
        zygote, guests.policy(), "/app/main.py", interpreter=guests.python, site_directories=[packages]
    )
    ended = await guests.finish(process)
    assert ended.stdout.splitlines() == ["warm" if warm else "cold", "b'hello!'", "b'again!'"], ended.stderr


async def _zygote_with(guests: Any, directory: Path, module: str) -> Zygote:
    zygote: Zygote = await guests.sandbox.zygote(
        key="shared", python=guests.python, preload=[module], site_directories=[str(directory)]
    )
    return zygote
