from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import eva_predict
from benchmarks.eva_predict import EVA_PYTHON, Material, Round, judged, keep_round, kept_rounds, measure

ONE = Round(bare_fp32=100.0, bare_bf16=50.0, histotune_fp32=104.0, histotune_bf16=60.0, eva=150.0, distance=1e-6)


def test_without_eva_the_claims_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EVA_PYTHON, raising=False)
    monkeypatch.setattr(eva_predict, "missing_hardware", lambda **_: "")
    for result in measure():
        assert result.met == "not measured"
        assert "kaiko-eva[vision]==0.4.5" in result.reason and EVA_PYTHON in result.reason


def test_seven_rounds_are_judged_by_their_bound() -> None:
    overhead, speed = judged([ONE] * 6 + [replace(ONE, histotune_fp32=107.0)])
    assert overhead.value == 4.0
    assert overhead.bound == 7.0
    assert overhead.met is False
    assert speed.value == 2.5
    assert speed.met is True


def test_fewer_rounds_are_shown_and_not_judged() -> None:
    overhead, speed = judged([ONE, ONE])
    assert overhead.met == speed.met == "not measured"
    assert overhead.reason.startswith("2 of 7 rounds: 4.0, 4.0 s")
    assert speed.reason.startswith("2 of 7 rounds: 2.50, 2.50 x")


def test_rounds_of_another_size_are_not_mixed_in(tmp_path: Path) -> None:
    material = Material(tmp_path, tmp_path, tmp_path, tmp_path, 2000)
    keep_round(material, ONE)
    keep_round(material, replace(ONE, eva=151.0))
    keep_round(replace(material, n_images=96), replace(ONE, eva=1.0))
    assert [one.eva for one in kept_rounds(material)] == [150.0, 151.0]
