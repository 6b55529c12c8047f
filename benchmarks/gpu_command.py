"""The command line of the scripts for a GPU: measure everything, then write one JSON file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.harness import Result


def run_gpu_script(
    name: str, measure: Callable[[], Sequence[Result]], smoke: Callable[[], object], smoke_help: str
) -> None:
    """Measure, or run every step on the CPU; write or print JSON.

    Args:
        name: The script.
        measure: Gives the claims' results.
        smoke: Goes through every step on the CPU and gives its figures.
        smoke_help: What the smoke run is, for --help.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--out", type=Path, help="file to write; printed where left out")
    parser.add_argument("--smoke", action="store_true", help=smoke_help)
    options = parser.parse_args()
    data: object = smoke() if options.smoke else [result.as_dict() for result in measure()]
    text = json.dumps(data, indent=1)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text + "\n", encoding="utf-8")
