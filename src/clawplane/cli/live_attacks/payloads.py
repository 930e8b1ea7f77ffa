"""What the guests of live sessions are given to run."""

from __future__ import annotations

from typing import Final

FRAME: Final = (
    '{"op": "done", "id": "1", "nonce": "n0nce", "status": "ok", "error": null, "exit_code": null, "count": 9, '
    '"threads": 0, "notes": [], "broken": false}'
)
SOCKETS: Final = """
import json, os, stat, sys
sockets = [int(n) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)]
sockets = [n for n in sockets if n > 2 and stat.S_ISSOCK(os.fstat(n).st_mode)]
def send(body):
    for n in sockets: os.write(n, len(body).to_bytes(4, 'little') + body)
frame = sys._getframe()
while 'nonce' not in frame.f_locals: frame = frame.f_back
own = dict(id=frame.f_locals['number'], nonce=frame.f_locals['nonce'], op='done', status='ok', error=None,
           exit_code=None, count=77, threads=0, notes=['well done'], broken=False)
"""
LOOK: Final = """
import os, signal, sys, threading
def begun(pid):
    try: return int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[19])
    except OSError: return 1 << 62
old = [pid for pid in os.listdir('/proc') if pid.isdigit() and pid != '1' and begun(pid) < begun(os.getpid())]
(len(old), 'mark' in globals(), os.environ.get('MARK'), 'marked' in sys.modules, threading.active_count(),
 sys.gettrace(), signal.getsignal(signal.SIGTERM), os.getcwd())
"""
AS_NEW: Final = "(0, False, None, False, 1, None, <Handlers.SIG_DFL: 0>, '/workspace')"
DAMAGES: Final = {
    "its builtins": "import builtins as b\nb.len = b.isinstance = b.repr = b.getattr = b.print = b.open = None",
    "compile and exec": "import builtins as b\nb.compile = b.exec = b.eval = b.__import__ = lambda *a, **k: 'evil'",
    "all builtins": "import builtins; builtins.__dict__.clear()",
    "sys.modules": "import sys; sys.modules.clear()",
    "json": "import json, sys; json.dumps = json.loads = json.encoder = None; sys.modules['json'] = None",
    "os": "import os; os.read = os.write = os.getpid = os.fork = os._exit = os.fstat = None",
    "signal handlers": "import signal\nfor n in (1, 2, 14, 15, 17): signal.signal(n, lambda *a: 1 / 0)",
    "signals": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "its streams": "import sys; sys.stdout = object(); sys.stderr = 5; sys.stdin.close()",
    "descriptors 0 to 2": "import os; os.close(0); os.close(1); os.close(2)",
    "its trace": "import sys\ndef f(*a): raise SystemExit\nsys.settrace(f); sys.setprofile(f)",
    "audit hooks": "import sys\ndef hook(*a): raise SystemExit(a)\nsys.addaudithook(hook)",
    "its hooks": "import sys; del sys.excepthook, sys.displayhook; del sys.modules['__main__']",
    "its globals": "globals().clear()",
}
ENDS: Final = {
    "os._exit": "import os; os._exit(0)",
    "another program in its place": "import os; os.execv('/bin/cat', ['cat'])",
    "a violation of memory": "import ctypes; ctypes.string_at(0)",
    "SIGKILL": "import os; os.kill(os.getpid(), 9)",
    "closed descriptors": "import os; os.closerange(3, 1024)",
    "a file over every descriptor": "import os\nn = os.open('/dev/null', 2)\nfor k in range(3, 300): os.dup2(n, k)",
}
LEFTOVERS: Final = """
import os, signal, threading
if os.fork() == 0: os.setsid(); signal.pause()
for _ in range(5): threading.Thread(target=threading.Event().wait, daemon=True).start()
"""
PATCHES: Final = """
import builtins, ctypes, gc, json, os, random, re, signal, sys
os.environ['PATCHED'] = 'patched'; os.umask(0); os.nice(5); os.chdir('/tmp'); open('/tmp/patched', 'w').close()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.path.append('/patched'); sys.modules['patched'] = sys; sys.setrecursionlimit(77)
space = gc.get_referents(str.__dict__)[0]; space['patched'] = 'patched'
ctypes.pythonapi.PyType_Modified(ctypes.py_object(str))
json.loads = random.random = os.listdir = re.compile = builtins.len = lambda *a, **k: 'patched'
builtins.extra = 'patched'
print(str.patched, len([]), json.loads('[1]'), os.getcwd())
"""
UNTOUCHED: Final = """
import builtins, json, os, random, re, signal, sys
[json.loads('[1]'), random.random() != 'patched', len(os.listdir('/tmp')), bool(re.compile('a')), len([1, 2]),
 hasattr(builtins, 'extra'), hasattr(str, 'patched'), '/patched' in sys.path, 'patched' in sys.modules, os.getcwd(),
 sys.getrecursionlimit() > 900, 'PATCHED' in os.environ, os.nice(0), signal.getsignal(15) == signal.SIG_DFL]
"""
AS_EVER: Final = "[[1], True, 0, True, 2, False, False, False, False, '/workspace', True, False, 0, True]"
CHANCE: Final = """
import os, random, secrets, tempfile, uuid
print(random.random(), uuid.uuid4(), uuid.uuid1(), secrets.token_hex(16), os.urandom(8).hex(), tempfile.mktemp())
"""
WHERE: Final = "(grep -E '^(CapEff|NoNewPrivs|Seccomp:)' /proc/self/status; readlink /proc/self/ns/pid)"
"""What a process may do and where it stands, as a shell command."""
