"""Start-up: `histotune --help` answers at once, because it imports nothing heavy."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from benchmarks.harness import Arm, Claim, Part, Result, alternate, histotune_program, measured

HEAVY = ("torch", "numpy", "pyarrow", "matplotlib", "pydantic", "polars", "timm", "transformers", "sklearn")
TIME = Claim(
    "startup",
    "histotune --help answers",
    "s",
    0.3,
    "at most",
    "Wall time of the installed command from start to exit, median of 9 after 2 warm-ups, in turns with an"
    " interpreter that runs nothing (the floor, in parts).",
)
IMPORTS = Claim(
    "startup_imports",
    "heavy libraries imported by histotune --help",
    "libraries",
    0,
    "at most",
    f"sys.modules after the command has printed its help, in a process of its own; counted: {', '.join(HEAVY)}.",
)
SHOW_HELP = """
import json, sys
sys.argv = ["histotune", "--help"]
from histotune.cli.main import main
try:
    main()
except SystemExit:
    pass
print()
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def measure() -> tuple[Result, ...]:
    """Time the help and list what it imported."""
    ours = Arm("histotune --help", lambda: run_quietly(histotune_program(), "--help"))
    floor = Arm("python -c pass", lambda: run_quietly(sys.executable, "-c", "pass"))
    seconds = alternate([floor, ours], repeats=9, warmups=2)
    parts = [Part(name, statistics.median(values)) for name, values in seconds.items()]
    heavy = [name for name in HEAVY if name in imported_modules()]
    return (
        measured(TIME, seconds[ours.name], parts),
        measured(IMPORTS, [len(heavy)], [Part(name, 1) for name in heavy]),
    )


def imported_modules() -> set[str]:
    """Return the top-level modules of a process that has shown the help."""
    answer = subprocess.run([sys.executable, "-c", SHOW_HELP], check=True, capture_output=True, text=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


def run_quietly(*command: str) -> None:
    """Run a command to its end, its output unseen."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
