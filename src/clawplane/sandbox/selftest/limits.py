"""Classes E to H: resources, life cycle, results and descriptors (items 38 to 57 and 68)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from clawplane.sandbox.policy import MIB, Scratch
from clawplane.sandbox.selftest.items import QUICK, Attack, Outcome, ended_by, prints, refused, says

_FEW: Final = replace(QUICK, processes=30, wall=5.0)
_SMALL: Final = replace(QUICK, memory=96 * MIB)
_SHORT: Final = replace(QUICK, wall=0.5, grace=0.3)
_LATE_MS: Final = 500 + 300 + 250
_POLLED: Final = ("exit", "signal")
_STUBBORN: Final = """
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
"""


def attacks() -> Sequence[Attack]:
    """Return the attacks."""
    return (*_processes(), *_memory(), *_time(), *_space(), *_ends(), *_descriptors())


def _processes() -> Sequence[Attack]:
    return (
        Attack(
            number=38,
            title="floods the host with processes",
            expected="it is ended, and the limit is named",
            code="while True: os.fork()",
            limits=_FEW,
            judge=ended_by("processes", polled=_POLLED, within_ms=6000),
        ),
        Attack(
            number=38,
            title="runs the shell's fork bomb",
            expected="it is ended",
            argv=("/bin/bash", "-c", ":(){ :|:& };:; wait"),
            limits=_FEW,
            needs="bash",
            judge=ended_by("processes", "exit", "signal", within_ms=5000),
        ),
        Attack(
            number=48,
            title="leaves a daemon that holds its output open",
            expected="it ends with the program that started it",
            code="""
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    _libc.prctl(1, 0, 0, 0, 0)
    open('/tmp/alive', 'w').close()
    while True: time.sleep(1)
while not os.path.exists('/tmp/alive'): time.sleep(0.001)
say('started')""",
            judge=says("started"),
        ),
        Attack(
            number=49,
            title="floods its reaper with orphans",
            expected="all are reaped",
            code="""
for _ in range(300):
    child = os.fork()
    if child == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
end = time.monotonic() + 5
def left(): return len([each for each in os.listdir('/proc') if each.isdigit()]) - 2
while left() and time.monotonic() < end: pass
say(left())""",
            limits=replace(QUICK, processes=100),
            judge=says(0),
        ),
    )


def _memory() -> Sequence[Attack]:
    return (
        Attack(
            number=39,
            title="takes memory without end",
            expected="it is ended, and the limit is named",
            code="x = bytearray()\nwhile True: x += bytes(1 << 20)",
            limits=_SMALL,
            judge=ended_by("memory", polled=_POLLED),
        ),
        Attack(
            number=39,
            title="takes memory in many children",
            expected="it is ended, and the limit is named",
            code="""
for _ in range(8):
    if os.fork() == 0:
        x = bytearray(40 << 20); signal.pause()
x = bytearray(40 << 20); signal.pause()""",
            limits=_SMALL,
            judge=ended_by("memory", polled=_POLLED),
        ),
        Attack(
            number=39,
            title="hides memory in shared memory files",
            expected="it is charged for, or bounded",
            code="""
with open('/dev/shm/big', 'wb', buffering=0) as file:
    try:
        while True: file.write(bytes(1 << 20))
    except OSError as problem: say(errno.errorcode[problem.errno])""",
            limits=replace(QUICK, memory=40 * MIB),
            judge=_charged_or_full,
        ),
        Attack(
            number=39,
            title="hides memory behind a descriptor",
            expected="it is charged for, or refused",
            code="descriptor = os.memfd_create('hidden')\nwhile True: os.write(descriptor, bytes(1 << 20))",
            limits=replace(QUICK, memory=64 * MIB),
            judge=ended_by("memory", polled=_POLLED),
        ),
    )


def _time() -> Sequence[Attack]:
    return (
        Attack(
            number=40,
            title="spins beyond its time",
            expected="it is ended at most 250 ms late",
            code="while 1: pass",
            limits=_SHORT,
            judge=ended_by("timeout", within_ms=_LATE_MS),
        ),
        Attack(
            number=40,
            title="spins in code that holds the interpreter",
            expected="it is ended at most 250 ms late",
            code="import re; re.match(r'(a+)+$', 'a' * 64 + 'b')",
            limits=_SHORT,
            judge=ended_by("timeout", within_ms=_LATE_MS),
        ),
        Attack(
            number=46,
            title="refuses to end",
            expected="it is killed when the grace is over",
            code=_STUBBORN + "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: time.sleep(1)",
            limits=_SHORT,
            judge=ended_by("timeout", within_ms=_LATE_MS),
        ),
        Attack(
            number=47,
            title="waits where it can hardly be interrupted",
            expected="it is killed when the grace is over",
            code=_STUBBORN + "os.mkfifo('/tmp/fifo'); open('/tmp/fifo')",
            limits=_SHORT,
            judge=ended_by("timeout", within_ms=_LATE_MS),
        ),
        Attack(
            number=52,
            title="turns the clock",
            expected="refused",
            code="say([tried(time.clock_settime, time.CLOCK_REALTIME, 0)])",
            judge=refused("EPERM"),
        ),
    )


def _space() -> Sequence[Attack]:
    return (
        Attack(
            number=41,
            title="fills the disk",
            expected="its scratch space is full first, and the rest is sealed",
            code="""
with open('/tmp/file', 'wb') as file: answer = tried(os.posix_fallocate, file.fileno(), 0, 1 << 40)
say([answer, tried(open, '/attack', 'w')])""",
            judge=refused("ENOSPC", "EFBIG", "EROFS"),
        ),
        Attack(
            number=41,
            title="uses up all files",
            expected="its scratch space is full first",
            code="""
made = 0
try:
    while made < 100_000: os.close(os.open(f'/work/{made}', os.O_CREAT)); made += 1
except OSError as problem: say(errno.errorcode[problem.errno])""",
            mounts=(Scratch("/work", size=16 * MIB, inodes=2000),),
            judge=says("ENOSPC"),
        ),
        Attack(
            number=42,
            title="floods its output",
            expected="it is ended at the limit",
            code="while True: os.write(1, b'x' * 65536)",
            judge=ended_by("output"),
        ),
        Attack(
            number=53,
            title="has a core dumped",
            expected="the limit that keeps crash programs away cannot be changed",
            code="""
import resource
answers = [resource.getrlimit(resource.RLIMIT_CORE)[1]]
for limit in ((0, 0), (-1, -1)):
    try: resource.setrlimit(resource.RLIMIT_CORE, limit); answers.append('done')
    except (OSError, ValueError): answers.append('refused')
say(answers)""",
            judge=says([1, "refused", "refused"]),
        ),
    )


def _ends() -> Sequence[Attack]:
    return (
        Attack(
            number=57,
            title="claims an end it did not have",
            expected="the verdict is what the kernel saw",
            code="""print('{"event": "ended", "verdict": {"reason": "exit", "exit_code": 0}}'); sys.exit(9)""",
            judge=lambda outcome: "" if outcome.verdict.exit_code == 9 else f"exit code {outcome.verdict.exit_code}",
        ),
        Attack(
            number=57,
            title="kills everything it can",
            expected="its own processes end, and nothing else",
            code="tried(os.kill, -1, 9); tried(os.kill, 1, 9); os.kill(os.getpid(), 9)",
            judge=ended_by("signal"),
        ),
    )


def _descriptors() -> Sequence[Attack]:
    return (
        Attack(
            number=56,
            title="writes to every descriptor number",
            expected="nobody is confused by it",
            code="""
for number in range(3, 1024):
    for forged in (b'E' + bytes(24), b'R', b'{"exit": 0}'):
        try: os.write(number, forged)
        except OSError: pass
os.closerange(3, 1024)
print('WRITTEN', flush=True)
os._exit(6)""",
            judge=lambda outcome: "" if outcome.verdict.exit_code == 6 else f"exit code {outcome.verdict.exit_code}",
        ),
        Attack(
            number=68,
            title="looks for descriptors that leaked",
            expected="it has its standard streams and nothing else",
            code="""
left = {each: os.readlink('/proc/self/fd/' + each) for each in os.listdir('/proc/self/fd')
        if os.path.lexists('/proc/self/fd/' + each)}
say(sorted(target for each, target in left.items() if int(each) > 2 and not target.endswith('/fd')))""",
            judge=says([]),
        ),
        Attack(
            number=68,
            title="looks where it stands",
            expected="in its own tree",
            code="print(os.getcwd(), os.readlink('/proc/self/cwd'), os.readlink('/proc/self/root'))",
            judge=prints("clawplane", "/home"),
        ),
    )


def _charged_or_full(outcome: Outcome) -> str:
    if outcome.verdict.reason == "memory" or outcome.said() == "ENOSPC":
        return ""
    return f"it ended by {outcome.verdict.reason}"
