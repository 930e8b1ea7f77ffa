"""Measure exports: rows per second for each format, against `json.loads` and `csv.writer` in the same breath.

Run with `python bench/exports.py [--rows N] [--json]`. Rows have about 200 bytes and six members.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator

from clawplane import exports

COLUMNS = ("id", "title", "price", "url", "seller", "text")
BATCH = 2000


def batch(variant: str) -> list[bytes]:
    """Return one batch of rows; `nested` rows hold a list in one member."""
    return [
        json.dumps(
            {
                "id": index,
                "title": f"Product number {index}",
                "price": index / 4,
                "url": f"https://example.com/products/{index}",
                "seller": ["ACME", {"city": "Berlin"}] if variant == "nested" else "ACME trading limited",
                "text": "x" * 60,
            }
        ).encode()
        for index in range(100_000, 100_000 + BATCH)
    ]


def plain_loop(rows: list[bytes], times: int) -> Iterator[bytes]:
    """Yield CSV the way most programs write it."""
    for _ in range(times):
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        for raw in rows:
            row = json.loads(raw)
            writer.writerow([row.get(key) for key in COLUMNS])
        yield buffer.getvalue().encode()


def export(name: str, columns: tuple[str, ...] | None) -> Callable[[list[bytes], int], Iterator[bytes]]:
    """Return a function that yields a file of `times` batches."""

    def pieces(rows: list[bytes], times: int) -> Iterator[bytes]:
        encoder = exports.encoder(name, columns)
        yield encoder.begin()
        for _ in range(times):
            for start in range(0, len(rows), exports.SLICE):
                yield encoder.encode(rows[start : start + exports.SLICE])
        yield encoder.end()

    return pieces


def measure(pieces: Callable[[list[bytes], int], Iterator[bytes]], rows: list[bytes], count: int) -> dict[str, float]:
    """Return rows per second, bytes written and growth of the peak memory in MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    size = sum(map(len, pieces(rows, max(1, count // BATCH))))
    seconds = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"rows_per_s": count / seconds, "bytes": size, "grown_mib": round(grown, 1)}


def main() -> None:
    """Measure every format and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    plain, nested = batch("plain"), batch("nested")
    cases = {
        "baseline csv (json.loads + csv.writer)": (plain_loop, plain),
        "csv": (export("csv", COLUMNS), plain),
        "csv, one nested value": (export("csv", COLUMNS), nested),
        "json": (export("json", None), plain),
        "json, 4 of 6 keys": (export("json", COLUMNS[:4]), plain),
        "jsonl": (export("jsonl", None), plain),
        "jsonl, 4 of 6 keys": (export("jsonl", COLUMNS[:4]), plain),
    }
    results = {label: measure(pieces, rows, options.rows) for label, (pieces, rows) in cases.items()}
    baseline = next(iter(results.values()))["rows_per_s"]
    for figures in results.values():
        figures["ratio"] = round(figures["rows_per_s"] / baseline, 2)
    if options.json:
        json.dump({"machine": platform.platform(), "python": platform.python_version(), "exports": results}, sys.stdout)
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, {options.rows} rows of {len(plain[0])} bytes")
    for label, figures in results.items():
        print(f"{label:40} {figures['rows_per_s']:12,.0f} rows/s  x{figures['ratio']:<6} +{figures['grown_mib']} MiB")


if __name__ == "__main__":
    main()
