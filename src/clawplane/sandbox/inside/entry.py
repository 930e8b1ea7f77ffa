"""Start what a guest asked for: another program by exec, or a Python file or a REPL in this warm interpreter.

A script must find what `python script` would give it: argv, path, prefix, environment, a `__main__` of its own, the
usual traceback and exit codes; and nothing of ours. So the zygote has taken our package out of the module table, and
the interpreter ends by the normal way out: threads are joined, atexit runs, streams are flushed.
What all forks of one zygote share is their hash seed and the addresses of what was imported; random numbers differ.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import site
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import NoReturn

from clawplane.sandbox.inside import gate
from clawplane.sandbox.inside.resident import CONTROL
from clawplane.sandbox.inside.zygote import Guest
from clawplane.sandbox.request import Command, Interpreter, Script

_REHEARSALS = 32
_DEFAULT_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
}


def run(guest: Guest) -> None:
    """Become the guest's program."""
    environment = {**_DEFAULT_ENVIRONMENT, **guest.start.environment}
    match guest.start.program:
        case Command() as command:
            _execute(command, environment)
        case Script() as script:
            _run_script(script, guest, environment)
        case Interpreter() as interpreter:
            _run_interpreter(interpreter, guest, environment)


def _execute(program: Command, environment: dict[str, str]) -> NoReturn:
    try:
        for name in ("SIGPIPE", "SIGXFSZ"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)  # Python ignores them, and exec keeps that
        os.execvpe(program.argv[0], program.argv, environment)
    except OSError as problem:
        gate.fail(OSError(problem.errno, problem.strerror, f"cannot execute {program.argv[0]}"))
    except ValueError as problem:  # a NUL byte or a name with "="
        gate.fail(problem)


def _run_script(program: Script, guest: Guest, environment: dict[str, str]) -> None:
    try:
        guest.command_line.show([program.interpreter, program.path, *program.arguments])
        arguments = [program.path, *program.arguments]
        _furnish(
            guest.search_path,
            program.interpreter,
            arguments,
            environment,
            os.path.dirname(os.path.realpath(program.path)),
        )
        main = _main_module(program.path)
    except BaseException as problem:
        gate.fail(problem)
    gc.enable()
    os.close(gate.GATE)
    _add_sites(guest, program.site_directories)
    _run_file(program.path, main)


def _run_interpreter(program: Interpreter, guest: Guest, environment: dict[str, str]) -> None:
    try:
        module, _, function = program.entry_point.partition(":")
        loaded = guest.hidden.get(module) or sys.modules.get(module)
        if loaded is None:  # our own files are not to be seen in here
            raise ImportError(f"the zygote has not preloaded {module}")
        main: Callable[[int], None] = guest.prepared.get(module) or getattr(loaded, function)
        guest.command_line.show([program.interpreter])
        _furnish(guest.search_path, program.interpreter, [""], environment, "")
        sys.modules["__main__"] = ModuleType("__main__")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
    except BaseException as problem:
        gate.fail(problem)
    gc.enable()
    os.close(gate.GATE)
    _add_sites(guest, program.site_directories)
    main(CONTROL)


def rehearse() -> None:
    """Do in a zygote what each of its forks does here, and take it back."""
    names = ("argv", "orig_argv", "executable", "prefix", "exec_prefix", "dont_write_bytecode")
    before, path, environment = {name: getattr(sys, name) for name in names}, list(sys.path), dict(os.environ)
    for _ in range(_REHEARSALS):
        _furnish(path, sys.executable, [""], environment, "")
    sys.path[:] = path
    for name, value in before.items():
        setattr(sys, name, value)


def _furnish(
    search_path: Sequence[str],
    interpreter: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    first_path: str,
) -> None:
    """Make this interpreter look as if it had been started with `arguments`."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = list(arguments)
    sys.orig_argv = [interpreter, *filter(None, arguments)]
    sys.executable = interpreter
    prefix = os.path.dirname(os.path.dirname(interpreter))
    if os.path.exists(f"{prefix}/pyvenv.cfg"):
        sys.prefix = sys.exec_prefix = prefix
    extra = [each for each in environment.get("PYTHONPATH", "").split(":") if each]
    sys.path[:] = [first_path, *extra, *search_path]
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    if environment.get("PYTHONUNBUFFERED"):
        _unbuffer()
    _reseed()


def _main_module(path: str) -> ModuleType:
    main = ModuleType("__main__")
    loader = SourceFileLoader("__main__", os.path.abspath(path))
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    main.__dict__.update(
        __file__=os.path.abspath(path), __builtins__=sys.modules["builtins"], __loader__=loader, __cached__=None
    )
    sys.modules["__main__"] = main
    return main


def _unbuffer() -> None:
    """Do what `-u` does."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        raw = io.FileIO(descriptor, "wb", closefd=False)
        # mode is what the file layer calls itself, as it does with -u
        stream = io.TextIOWrapper(raw, encoding=old.encoding, errors=old.errors, write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _reseed() -> None:
    """Give the child random numbers of its own."""
    standard = sys.modules.get("random")
    if standard is not None:
        standard.seed()  # a fork of a resident's pid 1 runs no hooks
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4), "little"))  # a longer seed touches twice the memory


def _add_sites(guest: Guest, directories: Sequence[str]) -> None:
    """Add site directories as the site module would; their .pth files are user code."""
    if guest.plain_sites.issuperset(directories):
        sys.path.extend(each for each in directories if each not in sys.path)
        return
    known: set[str] = set(sys.path)
    for directory in directories:
        site.addsitedir(directory, known)


def _run_file(path: str, main: ModuleType) -> None:
    """Run the file at `path` as `main`; ends as Python does: SystemExit passes, anything else is shown."""
    problem: BaseException | None = None
    try:
        exec(_compile(path), main.__dict__)  # the file is what this process exists for
    except SystemExit:
        raise
    except BaseException as raised:
        problem = raised
    if problem is not None:  # shown only here, where no exception is being handled, as hooks expect
        _show(problem)
        if isinstance(problem, KeyboardInterrupt):
            _die_of_interrupt()
        sys.exit(1)


def _compile(path: str) -> CodeType:
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as problem:
        print(f"{sys.executable}: can't open file {os.path.abspath(path)!r}: {problem}", file=sys.stderr)
        sys.exit(2)
    return compile(source, os.path.abspath(path), "exec", dont_inherit=True)


def _show(problem: BaseException) -> None:
    """Hand the exception to the hook with a traceback that begins in the user's file."""
    trace = _without_us(problem.__traceback__)
    problem = problem.with_traceback(trace)
    sys.last_type, sys.last_value, sys.last_traceback = type(problem), problem, trace
    try:
        sys.excepthook(type(problem), problem, trace)
    except SystemExit:
        raise
    except BaseException as failure:
        print("Error in sys.excepthook:", file=sys.stderr)
        failure = failure.with_traceback(_without_us(failure.__traceback__))
        sys.__excepthook__(type(failure), failure, failure.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(problem), problem, trace)


def _without_us(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _die_of_interrupt() -> NoReturn:
    """End by SIGINT after the usual way out, so that the parent sees what happened."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(130)
