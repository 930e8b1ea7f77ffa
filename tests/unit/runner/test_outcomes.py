"""Why a Worker ended, in one sentence."""

from __future__ import annotations

import pytest

from clawplane.runner.jobs.outcomes import LastWords, outcome
from clawplane.sandbox.policy import MIB, Limits, Verdict

PYTHON = """Traceback (most recent call last):
  File "/worker/main.py", line 1, in <module>
    raise ValueError("no")
main.Mine: it went wrong
"""
CHAINED = (
    PYTHON
    + """
During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/worker/main.py", line 9, in <module>
KeyError: 'x'
"""
)
NODE = """node:internal/process/promises:288
            triggerUncaughtException(err, true /* fromPromise */);
            ^

Error [ERR_HTTP2_ERROR]: the stream was closed
    at main.js:3:1

Node.js v20.20.2
"""
GO = "panic: runtime error: index out of range\n\ngoroutine 1 [running]:\nmain.main()\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", ""),
        (PYTHON, "main.Mine: it went wrong"),
        (CHAINED, "KeyError: 'x'"),
        (NODE, "Error [ERR_HTTP2_ERROR]: the stream was closed"),
        (GO, "panic: runtime error: index out of range"),
        ("KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("something\nusage: main [-h]\n", "usage: main [-h]"),
    ],
)
def test_the_last_words_are_the_line_that_names_the_error(text: str, sentence: str) -> None:
    words = LastWords()
    for line in text.splitlines():
        words.hear(line)
    assert words.sentence() == sentence


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (Verdict("exit", exit_code=0), ""),
        (Verdict("exit", exit_code=2), "exited with code 2: KeyError: 'x'"),
        (Verdict("signal", signal=11), "was killed by SIGSEGV: KeyError: 'x'"),
        (Verdict("signal", signal=77), "was killed by signal 77: KeyError: 'x'"),
        (Verdict("timeout"), "timed out after 1800 s"),
        (Verdict("memory"), "exceeded its memory limit of 512 MB"),
        (Verdict("processes"), "exceeded its limit of 256 processes"),
        (Verdict("output"), "wrote more than 64 MB to stdout and stderr"),
        (Verdict("cpu"), "used more than 5 s of CPU time"),
        (Verdict("aborted"), "was aborted"),
        (Verdict("setup", detail="no such mount"), "no such mount"),
        (Verdict("setup"), "could not be started"),
    ],
)
def test_every_verdict_has_its_sentence(verdict: Verdict, message: str) -> None:
    words = LastWords()
    words.hear("KeyError: 'x'")
    assert outcome(verdict, Limits(memory=512 * MIB, cpu_time=5), words).message == message


def test_what_was_measured_is_reported() -> None:
    made = outcome(Verdict("exit", 0, None, 10, 20, 30), Limits(), LastWords())
    assert (made.succeeded, made.wall_ms, made.cpu_ms, made.peak_memory) == (True, 10, 20, 30)
