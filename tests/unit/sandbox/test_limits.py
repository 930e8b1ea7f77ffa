from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from clawplane.sandbox import namespaces
from clawplane.sandbox.limits import apply_rlimits
from clawplane.sandbox.policy import MIB, Limits

LIMITS = Limits(memory=256 * MIB, processes=20, cpu_time=1.0, open_files=64, file_size=1 * MIB)


def test_a_core_limit_of_one_byte_is_set_and_stays_below_every_dump(in_child: Any, tmp_path: Path) -> None:
    def crash() -> None:
        os.chdir(tmp_path)
        apply_rlimits(LIMITS, cgroups=True)
        assert resource.getrlimit(resource.RLIMIT_CORE) == (1, 1)
        os.kill(os.getpid(), signal.SIGQUIT)

    assert in_child(crash).status == -signal.SIGQUIT
    assert list(tmp_path.iterdir()) == []


def test_open_files_and_file_sizes_are_bounded(in_child: Any, tmp_path: Path) -> None:
    def exceed() -> list[int | None]:
        inherited = max(int(name) for name in os.listdir("/proc/self/fd"))  # of the test run: any number
        apply_rlimits(replace(LIMITS, open_files=inherited + 64), cgroups=True)
        answers: list[int | None] = []
        opened: list[int] = []
        try:
            while True:
                opened.append(os.dup(0))
        except OSError as error:
            answers.append(error.errno)
            assert opened[-1] == inherited + 63
            for file in opened:
                os.close(file)
        try:
            (tmp_path / "big").write_bytes(bytes(2 * MIB))
        except OSError as error:
            answers.append(error.errno)
        return answers

    assert in_child(exceed).value == [errno.EMFILE, errno.EFBIG]


def test_with_cgroups_memory_and_processes_are_left_to_them(in_child: Any) -> None:
    def read() -> list[Any]:
        before = [resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC)]
        apply_rlimits(LIMITS, cgroups=True)
        return [before == [resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC)]]

    assert in_child(read).value == [True]


def test_without_cgroups_a_memory_hog_gets_a_memory_error(in_child: Any) -> None:
    def hog() -> list[str]:
        apply_rlimits(LIMITS, cgroups=False)
        answers = []
        try:
            bytearray(400 * MIB)
        except MemoryError:
            answers.append("private")
        try:
            mmap.mmap(-1, 6000 * MIB)
        except OSError:
            answers.append("shared")
        return answers

    assert in_child(hog).value == ["private", "shared"]


def test_without_cgroups_an_ordinary_user_cannot_fork_beyond_the_limit(as_nobody: Any) -> None:
    def fork_on() -> int:
        reading, writing = os.pipe()  # before the limits, which what this process had open may exceed
        namespaces.unshare(namespaces.NEWUSER)  # as every guest has; the user's other processes count elsewhere
        apply_rlimits(LIMITS, cgroups=False)
        children = 0
        try:
            while children < 100:
                if os.fork() == 0:
                    os.close(writing)
                    os.read(reading, 1)
                    os._exit(0)
                children += 1
        except BlockingIOError:
            os.close(writing)
        return children

    assert 0 < as_nobody(fork_on).value < 20


def test_without_cgroups_cpu_time_ends_a_spinning_process(in_child: Any) -> None:
    def spin() -> None:
        apply_rlimits(LIMITS, cgroups=False)
        while True:
            pass

    assert in_child(spin).status in (-signal.SIGKILL, -signal.SIGXCPU)


def test_a_limit_above_the_callers_own_becomes_that_one(in_child: Any) -> None:
    def lower_first() -> Any:
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
        apply_rlimits(replace(LIMITS, open_files=4096), cgroups=True)
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    assert in_child(lower_first).value == [50, 50]
