"""The commands on real images: honest about few cases, and the leak in plain sight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


@pytest.fixture(scope="module")
def scores(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("real")
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "XDG_STATE_HOME": str(folder / "state")}
    command = ["run", "breakhis", "--data", real_data / "breakhis_sample", "--train-magnification", "100X",
               "--out", folder / "run", "--set", 'evaluation.floors=["majority"]']  # fmt: skip
    result = subprocess.run([sys.executable, "-m", "histotune", *map(str, command)], capture_output=True, text=True,
                            env=environment, check=False)  # fmt: skip
    assert result.returncode == 0, result.stderr
    findings = json.loads((folder / "run/scores.json").read_text())["findings"]
    return {finding["id"]: finding for finding in findings}


def rows(finding: dict[str, object], arm: str) -> dict[str, dict[str, dict[str, object]]]:
    """Return domain -> metric -> score of one arm."""
    found = [row for row in finding["rows"] if row["arm"] == arm]  # type: ignore[attr-defined]
    return {row["domain"]: {score["name"]: score for score in row["scores"]} for row in found}


def test_real_breakhis_by_case_beside_what_a_random_split_would_claim(scores: dict[str, dict[str, object]]) -> None:
    leak = scores["leak-price"]
    grouped = rows(leak, "probe")["breakhis 100X"]["auroc"]
    leaky = rows(leak, "probe, random image split")["breakhis 100X"]["auroc"]
    assert grouped["n_tiles"] == leaky["n_tiles"] == 154
    assert grouped["n_groups"] == 14
    assert leaky["value"] > grouped["value"]  # type: ignore[operator]
    interval = grouped["interval"]
    assert interval is None or interval["high"] - interval["low"] > 0.1  # type: ignore[index]
    assert not any("SYNTHETIC" in row["marks"] for row in leak["rows"])  # type: ignore[attr-defined]


def test_cells_with_too_few_cases_say_so(scores: dict[str, dict[str, object]]) -> None:
    by_domain = rows(scores["cross-magnification"], "probe")
    assert set(by_domain) == {"breakhis 40X", "breakhis 100X", "breakhis 200X", "breakhis 400X"}
    lone = by_domain["breakhis 200X"]["auroc"]
    assert lone["n_tiles"] == 1
    assert lone["value"] is None
    assert lone["reason"]
    assert lone["interval"] is None
