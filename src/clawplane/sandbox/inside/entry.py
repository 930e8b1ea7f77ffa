"""Start what a guest asked for: another program by exec, or a Python file in this warm interpreter.

A script must find what `python script` would give it: argv, path, prefix, environment, a `__main__` of its own, the
usual traceback and exit codes; and nothing of ours. So the package is taken out of the module table first, and the
interpreter ends by the normal way out: threads are joined, atexit runs, streams are flushed.
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
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import NoReturn

from clawplane.sandbox.inside import child
from clawplane.sandbox.inside.zygote import Guest
from clawplane.sandbox.request import Command, Script

_OWN_PACKAGE = "clawplane"


def run(guest: Guest) -> None:
    """Become the guest's program."""
    environment = child.environment(guest.request)
    program = guest.request.program
    if isinstance(program, Command):
        _execute(program, environment)
    try:
        guest.command_line.show([program.interpreter, program.path, *program.arguments])
        main = _furnish(guest, program, environment)
    except BaseException as problem:
        child.fail_at_gate(problem)
    gc.enable()
    os.close(child.GATE)
    _add_sites(program)
    _run_script(program.path, main)


def _execute(program: Command, environment: dict[str, str]) -> NoReturn:
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)  # Python ignores them, and exec keeps that
    try:
        os.execvpe(program.argv[0], program.argv, environment)
    except OSError as problem:
        child.fail_at_gate(OSError(problem.errno, problem.strerror, f"cannot execute {program.argv[0]}"))


def _furnish(guest: Guest, program: Script, environment: dict[str, str]) -> ModuleType:
    _forget_ourselves()
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [program.path, *program.arguments]
    sys.orig_argv = [program.interpreter, *sys.argv]
    sys.executable = program.interpreter
    prefix = os.path.dirname(os.path.dirname(program.interpreter))
    if os.path.exists(f"{prefix}/pyvenv.cfg"):
        sys.prefix = sys.exec_prefix = prefix
    extra = [each for each in environment.get("PYTHONPATH", "").split(":") if each]
    sys.path[:] = [os.path.dirname(os.path.realpath(program.path)), *extra, *guest.search_path]
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    if environment.get("PYTHONUNBUFFERED"):
        _unbuffer()
    _reseed()
    main = ModuleType("__main__")
    loader = SourceFileLoader("__main__", os.path.abspath(program.path))
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    main.__dict__.update(
        __file__=os.path.abspath(program.path), __builtins__=sys.modules["builtins"], __loader__=loader, __cached__=None
    )
    sys.modules["__main__"] = main
    return main


def _forget_ourselves() -> None:
    """Take our modules out of reach of an import; a package of the same name may be among the guest's own."""
    for name in [name for name in sys.modules if name.partition(".")[0] == _OWN_PACKAGE]:
        del sys.modules[name]
    for path in [path for path in sys.path_importer_cache if f"/{_OWN_PACKAGE}" in path or path not in sys.path]:
        del sys.path_importer_cache[path]


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
    """Give the child random numbers of its own; the standard generator has seen to itself after the fork."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _add_sites(program: Script) -> None:
    """Add site directories as the site module would; their .pth files are user code."""
    known: set[str] = set(sys.path)
    for directory in program.site_directories:
        site.addsitedir(directory, known)


def _run_script(path: str, main: ModuleType) -> None:
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
