"""``python -m benchmarks run [CLAIM ...]`` measures claims; ``python -m benchmarks table`` prints what is recorded."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.harness import RESULTS, save
from benchmarks.table import recorded, results_table

NOT_SCRIPTS = {"__init__", "__main__", "gpu_command", "harness", "sweep_data", "table"}


def scripts() -> list[str]:
    """Return the names of all claim scripts; a new file is found by itself."""
    return sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - NOT_SCRIPTS)


def main() -> None:
    """Measure or print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure claims on this machine, record them and print the table")
    run.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"one or more of {', '.join(scripts())}; all if none")
    run.add_argument("--results", type=Path, default=RESULTS, help="folder of the recorded results")
    table = commands.add_parser("table", help="print the recorded claims")
    table.add_argument("--results", type=Path, default=RESULTS, help="folder of the recorded results")
    options = parser.parse_args()
    if options.command == "run":
        measure_all(options.scripts or scripts(), options.results)
    Console(width=None if sys.stdout.isatty() else 160).print(results_table(recorded(options.results)))


def measure_all(names: list[str], folder: Path) -> None:
    """Run claim scripts and record what they found."""
    unknown = sorted(set(names) - set(scripts()))
    if unknown:
        sys.exit(f"no such claim script: {', '.join(unknown)}\n  allowed: {', '.join(scripts())}")
    for name in names:
        print(f"measuring {name} ...", flush=True)
        for result in importlib.import_module(f"benchmarks.{name}").measure():
            save(result, folder)


if __name__ == "__main__":
    main()
