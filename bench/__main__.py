"""Run every bench, one after the other, and print all figures.

python -m bench [NAME ...]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run the named benches, or all, and return how many failed."""
    directory = Path(__file__).parent
    parts = {"__init__", "__main__", "report", "thin_http"}
    known = sorted(path.stem for path in directory.glob("*.py") if path.stem not in parts)
    names = sys.argv[1:] or known
    failed = 0
    for name in names:
        if name not in known:
            print(f"There is no bench {name}; there are: {', '.join(known)}", file=sys.stderr)
            return 2
        print(f"== {name}", file=sys.stderr, flush=True)
        failed += subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
