"""A second run computes nothing and loads no network library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
sys.argv = ["histotune", *json.loads(sys.argv[1])]
from histotune.cli.main import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {"torch", "timm", "transformers", "peft", "sklearn", "torchvision"} & set(sys.modules)
print("HEAVY", sorted(heavy))
"""


def run(arguments: list[str], home: Path) -> str:
    environment = {**os.environ, "XDG_CACHE_HOME": str(home / "cache"), "XDG_STATE_HOME": str(home / "state")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_second_run_with_a_network_imports_no_network_library(breakhis: Path, tmp_path: Path) -> None:
    arguments = ["run", "breakhis", "--data", str(breakhis), "--train-magnification", "100X", "--out",
                 str(tmp_path / "run"), "--set", "sweep.folds=3", "--set", "evaluation.outer_folds=3"]  # fmt: skip
    cold = run(arguments, tmp_path)
    assert "'torch'" in cold.rpartition("HEAVY")[2]
    assert "no forward pass" not in cold
    first = (tmp_path / "run/scores.json").read_bytes()
    warm = run(arguments, tmp_path)
    assert warm.rpartition("HEAVY")[2].strip() == "[]"
    assert "no forward pass" in warm
    assert (tmp_path / "run/scores.json").read_bytes() == first
