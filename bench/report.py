"""Measure, summarise and print: one table for people, one JSON line for machines."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured figure: value in `unit`, the bar it is held against, and the baseline of the same run."""

    measure: str
    value: float
    unit: str
    bar: str = ""
    met: bool | None = None
    baseline: str = ""
    ratio: float | None = None
    note: str = ""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0..1) of `values` lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def machine() -> str:
    """Describe the machine in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]) // (1 << 20)
    load = os.getloadavg()[0]
    return (
        f"{len(os.sched_getaffinity(0))} cores of {model}, {memory} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {load:.1f}"
    )


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print the table to stderr and the JSON to stdout."""
    print(f"\n{title}\n{machine()}", file=sys.stderr)
    for figure in figures:
        mark = "" if figure.met is None else ("met" if figure.met else "MISSED")
        ratio = "" if figure.ratio is None else f"x{figure.ratio:.2f} of {figure.baseline}"
        print(
            f"  {figure.measure:<62} {figure.value:>12,.1f} {figure.unit:<8} {figure.bar:<14} {mark:<7} {ratio} "
            f"{figure.note}",
            file=sys.stderr,
        )
    print(json.dumps({"title": title, "machine": machine(), "figures": [asdict(figure) for figure in figures]}))
    sys.stdout.flush()
