"""Items 55 to 58 of the attack list as Python code: what is printed, what ends an interpreter, what damages it.

`tests/unit/sandbox/repl/test_attacks.py` runs them in a bare interpreter, `tests/attacks/sessions` in whole sessions.
"""

from __future__ import annotations

import json
from typing import Final

FRAME: Final = json.dumps(
    {"op": "done", "id": "1", "nonce": "n0nce", "status": "ok", "error": None, "exit_code": None, "count": 9}
    | {"threads": 0, "notes": [], "broken": False}
)
PRINTED: Final = {
    "a frame on stdout": f"import os; os.write(1, len({FRAME!r}).to_bytes(4, 'little') + {FRAME!r}.encode())",
    "a frame on stderr": f"import os; os.write(2, len({FRAME!r}).to_bytes(4, 'little') + {FRAME!r}.encode())",
}
ENDS: Final = {
    "os._exit": "import os; os._exit(0)",
    "abort": "import os; os.abort()",
    "exec": "import os; os.execv('/bin/cat', ['cat'])",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "faulthandler": "import faulthandler; faulthandler._sigsegv()",
    "kill 9": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "stack overflow": (
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n    def __getattr__(self, n): return getattr(self, n)\n"
        "x = []\nfor _ in range(10**6): x = [x]\nrepr(x)"
    ),
    "closes everything": "import os; os.closerange(3, 1024)",
    "closes one by one": "import os\nfor n in range(3, 1024):\n    try: os.close(n)\n    except OSError: pass",
    "shuts sockets down": (
        "import os, socket\nfor n in os.listdir('/proc/self/fd'):\n    try:\n"
        "        s = socket.socket(fileno=int(n)); s.shutdown(2); s.detach()\n    except OSError: pass"
    ),
    "puts a file over every descriptor": (
        "import os\nnull = os.open('/dev/null', os.O_RDWR)\nfor n in range(3, 300):\n    os.dup2(null, n)"
    ),
}
DAMAGES: Final = {
    "excepthook": "import sys; sys.excepthook = None; sys.unraisablehook = None; sys.displayhook = None",
    "deletes hooks": "import sys; del sys.excepthook, sys.displayhook, sys.__excepthook__",
    "stdout None": "import sys; sys.stdout = sys.stderr = sys.stdin = None",
    "stdout object": "import sys; sys.stdout = object(); sys.stderr = 5",
    "stdout gone": "import sys; del sys.stdout, sys.stderr, sys.__stdout__",
    "stdout closed": "import sys; sys.stdout.close(); sys.stderr.close(); sys.stdin.close()",
    "stdout detached": "import sys; sys.stdout.detach(); sys.stderr.detach()",
    "stdout recoded": "import sys; sys.stdout.reconfigure(encoding='utf-16', errors='strict')",
    "stdout raises": "import sys\nclass O:\n    def __getattr__(self, n): raise SystemExit(n)\nsys.stdout = O()",
    "descriptors 0 1 2 closed": "import os; os.close(0); os.close(1); os.close(2)",
    "descriptors 1 and 2 replaced": "import os; n = os.open('/dev/null', 2); os.dup2(n, 1); os.dup2(n, 2)",
    "streams not blocking": "import os; os.set_blocking(1, False); os.set_blocking(2, False)",
    "print": "import builtins; builtins.print = None",
    "open": "import builtins; builtins.open = lambda *a, **k: 1 / 0",
    "compile exec eval": "import builtins; builtins.compile = builtins.exec = builtins.eval = lambda *a, **k: 'evil'",
    "import": "import builtins; builtins.__import__ = lambda *a, **k: 1 / 0",
    "basics": "import builtins as b\nb.len = b.isinstance = b.type = b.str = b.getattr = b.repr = b.range = None",
    "exceptions": "import builtins as b\nb.BaseException = b.Exception = b.OSError = b.KeyboardInterrupt = int",
    "all builtins": "import builtins; builtins.__dict__.clear()",
    "builtins deleted": "del __builtins__",
    "builtins emptied": "__builtins__ = {}",
    "builtins number": "__builtins__ = 5",
    "globals": "globals().clear()",
    "names": "__name__ = 5; __doc__ = __spec__ = __loader__ = None",
    "json dumps": "import json; json.dumps = json.loads = None; json.JSONEncoder.encode = None; json.encoder = None",
    "json gone": "import sys; sys.modules['json'] = None",
    "traceback": "import traceback as t\nt.TracebackException.__init__ = t.format_exception = t.StackSummary = None",
    "linecache": "import linecache; linecache.cache = None; linecache.getlines = None",
    "linecache gone": "import sys; sys.modules['linecache'] = None; sys.modules['traceback'] = 5",
    "ast": "import ast; ast.Expression = ast.Expr = ast.Module = ast.walk = ast.iter_fields = ast.AST = None",
    "time": "import time; time.time = time.monotonic = time.sleep = None",
    "os": "import os; os.read = os.write = os.getpid = os.fork = os._exit = os.fstat = None",
    "working directory gone": "import os; os.makedirs('a/b'); os.chdir('a/b'); os.rmdir('../b')",
    "working directory unknown": "import os; os.getcwd = os.getcwdb = os.chdir = os.path = None",
    "signal": "import signal\nfor n in (1, 2, 14, 15, 17): signal.signal(n, lambda *a: 1 / 0)",
    "signals blocked": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "alarm that raises": "import signal\nsignal.signal(14, lambda *a: 1 / 0)\nsignal.setitimer(0, 0.3)",
    "modules cleared": "import sys; sys.modules.clear()",
    "modules replaced": "import sys; sys.modules = {}",
    "main deleted": "import sys; del sys.modules['__main__']",
    "main replaced": "import sys; sys.modules['__main__'] = 5",
    "path cleared": "import sys; sys.path.clear(); sys.meta_path.clear(); sys.path_hooks.clear()",
    "path number": "import sys; sys.path = sys.meta_path = 5",
    "settrace": "import sys\ndef f(*a): raise SystemExit('traced')\nsys.settrace(f)",
    "setprofile": "import sys\ndef f(*a): raise SystemExit('profiled')\nsys.setprofile(f)",
    "stubborn profile": "import sys\ndef f(*a):\n    sys.setprofile(f)\n    raise SystemExit\nsys.setprofile(f)",
    "threading trace": "import threading\ndef f(*a): raise SystemExit\nthreading.settrace(f); threading.setprofile(f)",
    "recursion limit": "import sys; sys.setrecursionlimit(30)",
    "huge recursion limit": "import sys; sys.setrecursionlimit(10**9)",
    "switch interval": "import sys; sys.setswitchinterval(1e-9)",
    "audit hook": "import sys\ndef hook(*a): raise SystemExit(a)\nsys.addaudithook(hook)",
    "atexit": "import atexit, os\natexit.register(os._exit, 9)",
    "gc callbacks": "import gc\ngc.callbacks.append(lambda *a: 1 / 0); gc.set_threshold(1)",
    "codec error handlers": (
        "import codecs\nfor n in ('strict', 'backslashreplace', 'replace', 'surrogateescape'):\n"
        "    codecs.register_error(n, lambda e: 1 / 0)"
    ),
    "codecs": "import codecs; codecs.register(lambda name: 1 / 0); codecs.lookup = None",
    "fork hooks": "import os\nos.register_at_fork(before=lambda: 1 / 0, after_in_parent=lambda: 1 / 0)",
    "warnings": "import warnings; warnings.showwarning = lambda *a: 1 / 0; warnings.simplefilter('error')",
    "int digits": "import sys; sys.set_int_max_str_digits(640)",
    "asyncio": "import asyncio; asyncio.set_event_loop_policy(None); asyncio.tasks.Task = asyncio.Task = None",
    "running loop left": "import asyncio; asyncio._set_running_loop(asyncio.new_event_loop())",
    "repr exits": "class A:\n    def __repr__(self): raise SystemExit(3)\nA()",
    "repr forks": "import os\nclass A:\n    def __repr__(self): return str(os.fork())\nA()",
    "repr is evil text": (
        "class S(str):\n    def __str__(self): raise ValueError\n    def __len__(self): raise ValueError\n"
        "    def __getitem__(self, i): raise ValueError\n    def encode(self, *a): raise ValueError\n"
        "class A:\n    def __repr__(self): return S('evil')\n    def _repr_html_(self): return S('<b>')\nA()"
    ),
    "mimebundle is evil": (
        "class D(dict):\n    def items(self): raise SystemExit\n    def __iter__(self): raise SystemExit\n"
        "class A:\n    def _repr_mimebundle_(self, **k): return D({'text/plain': 5, 7: 8, 'a/json': D()})\nA()"
    ),
    "class lies": "class A:\n    @property\n    def __class__(self): return str\nA()",
    "getattribute raises": "class A:\n    def __getattribute__(self, n): raise SystemExit\nA()",
    "metaclass raises": (
        "class M(type):\n    def __getattribute__(self, n): raise SystemExit\n    def mro(c): return [c, object]\n"
        "class A(metaclass=M): pass\nA()"
    ),
    "closes its caller's frame": "import sys\nf = sys._getframe(1)\nf.f_locals.clear(); f.f_globals.get('x')",
    "swallows everything": "try:\n    raise KeyboardInterrupt\nexcept BaseException:\n    pass",
    "daemon thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "displays endlessly": "for i in range(5000): display(i)",
    "display deleted": "import builtins; del builtins.display",
    "finalizer raises": (
        "class A:\n    def __del__(self): raise SystemExit\na = A(); a.me = a; del a\nimport gc; gc.collect()"
    ),
    "weird last values": "_ = __ = property(lambda self: 1 / 0)",
}
