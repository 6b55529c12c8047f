from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from benchmarks import __main__ as command
from benchmarks import demo, harness, startup, warm_rerun
from benchmarks.harness import (
    Arm,
    Claim,
    Part,
    Result,
    alternate,
    child_environment,
    cores,
    load,
    measured,
    median_bound,
    missing_hardware,
    not_measured,
    ratios,
    save,
)
from benchmarks.table import recorded, results_table
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import binom

from histotune.tools.devices import ComputeDevice
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from random import Random
    from types import ModuleType

AT_MOST = Claim("warm", "a warm run", "s", 5.0, "at most", "timed")
AT_LEAST = Claim("sweep", "faster than one fit at a time", "x", 20.0, "at least", "timed")


# the verdict


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_met_follows_the_direction(value: float) -> None:
    assert AT_MOST.is_met(value) == (value <= 5.0)
    assert AT_LEAST.is_met(value) == (value >= 20.0)


@pytest.mark.parametrize("claim", [AT_MOST, AT_LEAST])
def test_the_target_itself_is_met_and_nan_never_is(claim: Claim) -> None:
    assert claim.is_met(claim.target)
    assert not claim.is_met(math.nan)


def test_met_can_not_be_typed() -> None:
    assert "met" not in {field.name for field in dataclasses.fields(Result)}
    result = measured(AT_MOST, [6.0] * 5)
    with pytest.raises(AttributeError):
        result.met = True  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.claim.target = 10.0  # type: ignore[misc]


def test_the_value_is_the_median_and_the_spread_is_kept() -> None:
    result = measured(AT_MOST, [9.0, 1.0, 2.0, 3.0, 4.0])
    assert (result.value, result.met) == (3.0, True)
    assert result.as_dict()["spread"] == [1.0, 9.0]
    assert result.as_dict()["repeats"] == 5


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_what_is_no_measurement_is_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="no measurement"):
        measured(AT_MOST, samples)


# the bound

BOUNDED = dataclasses.replace(AT_LEAST, by_bound=True)


@pytest.mark.parametrize(("n", "rank"), [(4, None), (5, 1), (7, 1), (8, 2), (10, 2), (11, 3), (13, 4), (16, 5)])
def test_the_bound_is_the_highest_order_statistic_with_95_percent(n: int, rank: int | None) -> None:
    samples = [float(number) for number in range(1, n + 1)]
    assert median_bound(samples, "at least") == rank
    assert median_bound(samples, "at most") == (None if rank is None else n + 1 - rank)
    if rank is not None:
        assert binom.cdf(rank - 1, n, 0.5) <= 0.05 < binom.cdf(rank, n, 0.5)


@given(st.lists(st.floats(0.1, 10), min_size=5, max_size=40), st.randoms())
def test_the_bound_lies_on_the_failing_side_and_knows_no_order(samples: list[float], random: Random) -> None:
    low, high = median_bound(samples, "at least"), median_bound(samples, "at most")
    assert low is not None and high is not None
    assert low <= statistics.median(samples) <= high
    shuffled = random.sample(samples, len(samples))
    assert (median_bound(shuffled, "at least"), median_bound(shuffled, "at most")) == (low, high)


def test_the_bound_covers_a_skewed_median() -> None:
    rng = np.random.default_rng(0)
    held = [median_bound(list(row), "at least") <= math.log(2) for row in rng.exponential(size=(2000, 11))]  # type: ignore[operator]
    assert 0.95 <= np.mean(held) <= 0.98  # 96.7 % by the binomial


def test_a_claim_judged_by_the_bound_needs_both(tmp_path: Path) -> None:
    met = measured(BOUNDED, [20.0, 20.1, 20.2, 20.3, 20.4, 20.5, 20.6])
    wide = measured(BOUNDED, [19.9, 20.1, 20.2, 20.3, 20.4, 20.5, 20.6])
    assert (met.bound, met.met) == (20.0, True)
    assert (wide.bound, wide.value, wide.met) == (19.9, 20.3, False)
    assert measured(AT_LEAST, wide.samples).met is True
    data = json.loads(save(wide, tmp_path).read_text(encoding="utf-8"))
    assert (data["by_bound"], data["bound"], data["met"]) == (True, 19.9, False)
    assert load(tmp_path / "sweep.json") == wide


def test_an_upper_bound_judges_an_at_most() -> None:
    upper = dataclasses.replace(AT_MOST, by_bound=True)
    assert measured(upper, [1.0] * 6 + [5.0]).met is True
    assert measured(upper, [1.0] * 6 + [5.1]).met is False
    assert measured(upper, [1.0] * 7 + [5.1]).met is True  # of 8 samples the second largest


def test_six_pairs_are_too_few_for_a_bound() -> None:
    with pytest.raises(ValueError, match="at least 7 repeats, not 6"):
        measured(BOUNDED, [30.0] * 6)


def test_a_bound_edited_by_hand_is_refused(tmp_path: Path) -> None:
    path = save(measured(BOUNDED, [21.0] * 7), tmp_path)
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, "bound": 22.0}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"bound: 22\.0, its numbers say 21\.0"):
        load(path)


def test_results_without_a_bound_still_load(tmp_path: Path) -> None:
    path = save(measured(AT_MOST, [1.0] * 5), tmp_path)
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({key: data[key] for key in data if key not in ("bound", "by_bound")}), encoding="utf-8")
    assert load(path).bound is None
    assert load(path).met is True


# not measured


def test_not_measured_has_no_value_and_a_reason(tmp_path: Path) -> None:
    result = not_measured(AT_LEAST, "needs a T4 GPU; found a processor")
    data = json.loads(save(result, tmp_path).read_text(encoding="utf-8"))
    assert (data["value"], data["met"], data["spread"]) == (None, "not measured", None)
    assert data["reason"] == "needs a T4 GPU; found a processor"
    assert load(tmp_path / "sweep.json") == result


def test_missing_cores_and_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_hardware(n_cpus=1) == ""
    assert missing_hardware(n_cpus=100_000).startswith("needs 100000 cores")
    t4 = ComputeDevice("cuda", "Tesla T4", "7.5", 15.6, fast_bf16=False)
    monkeypatch.setattr(harness, "find_device", lambda: t4)
    assert missing_hardware(gpu="T4") == ""
    assert missing_hardware(gpu="A100") == "needs a A100 GPU; found Tesla T4"
    monkeypatch.setattr(harness, "find_device", lambda: ComputeDevice("cpu", "T4000", "", math.nan, fast_bf16=False))
    assert missing_hardware(gpu="T4") == "needs a T4 GPU; found T4000"


def test_a_claim_about_two_cores_is_not_measured_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.provenance, "cpu_count", lambda: 1)
    monkeypatch.setattr(demo, "run_demo", lambda folder: pytest.fail("must not run"))
    (result,) = demo.measure()
    assert (result.met, result.value) == ("not measured", None)


# alternation


class Clock:
    """A clock that the arms move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_arms_take_turns_and_warm_ups_are_not_kept() -> None:
    clock, order = Clock(), []

    def arm(name: str, seconds: float) -> Arm:
        def run() -> None:
            order.append(name)
            clock.now += seconds + len(order)  # every call differs, so a kept warm-up would show

        return Arm(name, run)

    seconds = alternate([arm("peer", 100.0), arm("ours", 10.0)], repeats=5, warmups=2, clock=clock)
    assert order == ["peer", "ours"] * 7
    assert seconds["peer"] == pytest.approx([105.0, 107.0, 109.0, 111.0, 113.0])
    assert seconds["ours"] == pytest.approx([16.0, 18.0, 20.0, 22.0, 24.0])


def test_preparing_is_not_timed() -> None:
    clock = Clock()

    def prepare() -> None:
        clock.now += 1000.0

    def run() -> None:
        clock.now += 1.0

    assert alternate([Arm("a", run, prepare)], clock=clock)["a"] == pytest.approx([1.0] * 5)


@pytest.mark.parametrize(("repeats", "warmups"), [(4, 1), (0, 1), (5, 0)])
def test_too_few_rounds_are_refused(repeats: int, warmups: int) -> None:
    with pytest.raises(ValueError, match="at least 5 repeats"):
        alternate([Arm("a", lambda: None)], repeats=repeats, warmups=warmups)


def test_two_arms_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        alternate([Arm("a", lambda: None), Arm("a", lambda: None)])


def test_a_failing_arm_ends_the_measurement() -> None:
    def run() -> None:
        raise RuntimeError("exit code 2")

    with pytest.raises(RuntimeError, match="exit code"):
        alternate([Arm("a", run)])


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios({"peer": (10.0, 30.0), "ours": (5.0, 10.0)}, "peer", "ours") == (2.0, 3.0)


# equal conditions


def test_every_arm_gets_the_same_threads_and_folders_of_its_own(tmp_path: Path) -> None:
    environment = child_environment(tmp_path, threads=2)
    assert {environment[name] for name in harness.THREAD_VARIABLES} == {"2"}
    assert environment["XDG_STATE_HOME"].startswith(str(tmp_path))
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity (Linux)")
def test_cores_are_held_and_given_back() -> None:
    before = cpu_count()
    with cores(1):
        assert cpu_count() == 1
    assert cpu_count() == before
    with pytest.raises(RuntimeError), cores(1):
        raise RuntimeError
    assert cpu_count() == before


# records


def test_a_result_reads_back_whole(tmp_path: Path) -> None:
    result = measured(AT_LEAST, [30.0, 31.0, 32.0, 33.0, 34.0], [Part("z", 2.0), Part("a", 1.0)], threads=2)
    data = json.loads(save(result, tmp_path).read_text(encoding="utf-8"))
    for key in ("claim", "value", "unit", "target", "met", "method", "machine", "versions", "date"):
        assert data[key]
    assert load(tmp_path / "sweep.json") == result


def test_a_record_holds_no_path_and_no_host(tmp_path: Path) -> None:
    import platform

    text = save(measured(AT_MOST, [1.0] * 5), tmp_path).read_text(encoding="utf-8")
    assert str(Path.home()) not in text
    assert set(json.loads(text)["machine"]) == {"platform", "cpu", "n_cpus", "memory_gib", "device"}
    assert f'"{platform.node()}"' not in text


@pytest.mark.parametrize("typed", [True, "not measured"])
def test_a_verdict_edited_by_hand_is_refused(tmp_path: Path, typed: object) -> None:
    path = save(measured(AT_MOST, [9.0] * 5), tmp_path)
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, "met": typed}), encoding="utf-8")
    with pytest.raises(ValueError, match="its numbers say False"):
        load(path)


@pytest.mark.parametrize("name", sorted(path.stem for path in harness.RESULTS.glob("*.json")))
def test_recorded_results_are_what_their_numbers_say(name: str) -> None:
    result = load(harness.RESULTS / f"{name}.json")
    assert result.claim.name == name
    if result.value is not None and result.claim.unit == "s":
        assert len(result.samples) >= harness.MIN_REPEATS
        assert min(result.samples) <= result.value <= max(result.samples)


# the table


def test_the_table_shows_value_target_verdict_and_parts(tmp_path: Path) -> None:
    save(measured(AT_MOST, [1.0, 2.0, 3.0, 4.0, 5.0], [Part("embed", 0.75)]), tmp_path)
    save(measured(AT_LEAST, [10.0] * 5), tmp_path)
    save(measured(dataclasses.replace(BOUNDED, name="bounded"), [17.5, *[22.0] * 6]), tmp_path)
    save(not_measured(Claim("gpu", "on a T4", "x", 2.0, "at least", "timed"), "needs a T4 GPU"), tmp_path)
    stream = io.StringIO()
    Console(file=stream, width=200).print(results_table(recorded(tmp_path)))
    lines = {line.split("│")[1].split(":")[0].strip(): line for line in stream.getvalue().splitlines() if "│" in line}
    assert "3 s" in lines["warm"] and "1 to 5" in lines["warm"] and "yes" in lines["warm"]
    assert "at least 20" in lines["sweep"] and " no " in lines["sweep"]
    assert "17.5 │" in lines["bounded"] and " no " in lines["bounded"]
    assert "not measured" in lines["gpu"] and "needs a T4 GPU" in lines["gpu"]
    assert "0.75" in lines["embed"]


def test_an_unknown_script_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"allowed: .*startup"):
        command.measure_all(["strtup"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_script_can_be_measured() -> None:
    import importlib

    for name in command.scripts():
        assert callable(importlib.import_module(f"benchmarks.{name}").measure)


# the first claims


def test_the_stages_of_a_demo_are_read_from_its_provenance(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    stages = [{"name": "embed", "seconds_s": 40.5}, {"name": "audit", "seconds_s": 2}]
    (run / "provenance.json").write_text(json.dumps({"stages": stages}), encoding="utf-8")
    assert demo.stage_seconds(tmp_path) == {"embed": 40.5, "audit": 2.0}
    assert demo.medians([{"b": 1.0, "a": 1.0}, {"b": 3.0, "a": 1.0}, {"b": 2.0, "a": 7.0}]) == [
        Part("b", 2.0),
        Part("a", 1.0),
    ]


def pretend_demo(monkeypatch: pytest.MonkeyPatch, script: ModuleType) -> list[list[str]]:
    """Let a script run a demo that only leaves its provenance and fills its cache; return what each run found."""
    found: list[list[str]] = []

    def run_demo(folder: Path) -> None:
        found.append(sorted(path.name for path in folder.iterdir()))
        for name in ("run", "cache"):
            (folder / name).mkdir(exist_ok=True)
        stages = [{"name": "embed", "seconds_s": float(len(found))}]
        (folder / "run" / "provenance.json").write_text(json.dumps({"stages": stages}), encoding="utf-8")

    monkeypatch.setattr(script, "run_demo", run_demo)
    monkeypatch.setattr(script, "missing_hardware", lambda n_cpus: "")
    return found


def test_every_cold_demo_starts_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pretend_demo(monkeypatch, demo)
    (result,) = demo.measure()
    assert found == [[]] * 6
    assert result.parts == (Part("embed", 4.0),)  # the median of runs 2 to 6: the warm-up is left out
    assert (len(result.samples), result.met) == (5, True)


def test_every_warm_rerun_finds_the_cache_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pretend_demo(monkeypatch, warm_rerun)
    (result,) = warm_rerun.measure()
    assert found == [[], *[["cache", "run"]] * 8]
    assert result.parts == (Part("embed", 6.0),)
    assert (len(result.samples), result.met) == (7, True)


def test_the_help_imports_nothing_heavy() -> None:
    imported = startup.imported_modules()
    assert "typer" in imported
    assert imported.isdisjoint(startup.HEAVY)
