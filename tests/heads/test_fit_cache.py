"""Solved fits come back to the last bit, anything that decides them misses, and no damage is ever read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.backbones.spec import ColumnBlock
from histotune.heads import fit_cache
from histotune.heads.config import SweepConfig
from histotune.heads.family import SweepSupport
from histotune.heads.fit_cache import FitCache, fit_key, hash_array
from histotune.heads.solver.problems import FitProblems, FitSettings, FitSolution
from histotune.heads.sweep import sweep
from tests.heads.samples import make_task

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
PROBLEMS = FitProblems(RNG.random((3, 40)) < 0.8, np.array([0, 1, 2, 0]), np.array([0.1, 0.1, 1.0, 10.0]), 2)
SETTINGS = FitSettings()


def same(a: FitSolution, b: FitSolution) -> bool:
    return all(np.array_equal(getattr(a, item.name), getattr(b, item.name)) for item in fields(FitSolution))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often the solver really runs."""
    counted: list[int] = []
    real = fit_cache.fit_batch
    monkeypatch.setattr(fit_cache, "fit_batch", lambda *arguments: counted.append(1) or real(*arguments))
    return counted


def test_a_kept_solution_is_the_solved_one_to_the_last_bit(tmp_path: Path, calls: list[int]) -> None:
    fresh = FitCache().fit_batch(X, Y, PROBLEMS, SETTINGS)
    solved = FitCache(tmp_path).fit_batch(X, Y, PROBLEMS, SETTINGS)
    read = FitCache(tmp_path).fit_batch(X, Y, PROBLEMS, SETTINGS)
    assert len(calls) == 2
    assert same(fresh, solved) and same(solved, read)
    arrays = [item.name for item in fields(FitSolution) if item.name != "passes"]
    assert [getattr(read, name).dtype for name in arrays] == [getattr(solved, name).dtype for name in arrays]


def changed_label() -> np.ndarray:
    y = Y.copy()
    y[np.flatnonzero(PROBLEMS.mask_FN.any(axis=0))[0]] ^= 1
    return y


def moved_tile() -> np.ndarray:
    mask = PROBLEMS.mask_FN.copy()
    mask[0, 3] ^= True
    return mask


NUDGED = X.copy()
NUDGED[7, 2] = np.nextafter(NUDGED[7, 2], np.float32(np.inf))


@pytest.mark.parametrize(
    "question",
    [
        (X, changed_label(), PROBLEMS, SETTINGS),
        (NUDGED, Y, PROBLEMS, SETTINGS),
        (X.astype(np.float64), Y, PROBLEMS, SETTINGS),
        (X[::-1], Y, PROBLEMS, SETTINGS),
        (X, Y, replace(PROBLEMS, mask_FN=moved_tile()), SETTINGS),
        (X, Y, replace(PROBLEMS, mask_FN=PROBLEMS.mask_FN * 2.0), SETTINGS),
        (X, Y, replace(PROBLEMS, mask_index_P=np.array([0, 1, 2, 1])), SETTINGS),
        (X, Y, replace(PROBLEMS, penalty_P=PROBLEMS.penalty_P * 1.0000001), SETTINGS),
        (X, Y, replace(PROBLEMS, n_classes=3), SETTINGS),
        (X, Y, PROBLEMS, replace(SETTINGS, tolerance=1e-7)),
        (X, Y, PROBLEMS, replace(SETTINGS, max_iterations=1999)),
    ],
    ids=["label", "one bit of one value", "type", "row order", "fold", "weights", "mask of a problem", "penalty",
         "classes", "tolerance", "iterations"],
)  # fmt: skip
def test_whatever_decides_the_fit_misses(
    tmp_path: Path, calls: list[int], question: tuple[np.ndarray, np.ndarray, FitProblems, FitSettings]
) -> None:
    cache = FitCache(tmp_path)
    cache.fit_batch(X, Y, PROBLEMS, SETTINGS)
    cache.fit_batch(*question)
    assert len(calls) == 2


def test_changed_code_misses(tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    FitCache(tmp_path).fit_batch(X, Y, PROBLEMS, SETTINGS)
    monkeypatch.setattr(fit_cache, "code_hash", lambda: "edited")
    FitCache(tmp_path).fit_batch(X, Y, PROBLEMS, SETTINGS)
    assert len(calls) == 2


@given(st.integers(1, 50), st.integers(1, 5), st.sampled_from(["<f4", "<f8", "<i8", "|b1"]), st.integers(64, 400))
@settings(max_examples=30)
def test_the_hash_sees_values_and_not_their_layout(n: int, d: int, kind: str, block: int) -> None:
    values = np.random.default_rng(n * 7 + d).integers(0, 9, (n, d)).astype(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_cache, "BLOCK_BYTES", block)
        assert hash_array(values) == hash_array(np.asfortranarray(values)) == hash_array(values.copy()[:, :])
        other = values.copy()
        other.flat[-1] = other.flat[-1] == 0
        assert hash_array(values) != hash_array(other)
        if n > 1:
            assert hash_array(values) != hash_array(values.reshape(d, n) if n != d else values[:-1])


def test_array_names_are_part_of_the_key() -> None:
    a, b = np.zeros(2), np.ones(2)
    assert fit_key({"a": a, "b": b}, {}) != fit_key({"a": b, "b": a}, {})
    assert fit_key({"a": a}, {"solver": "x"}) != fit_key({"a": a}, {"solver": "y"})


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "other"])
def test_damage_is_solved_again(tmp_path: Path, calls: list[int], harm: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = FitCache(tmp_path)
    solved = cache.fit_batch(X, Y, PROBLEMS, SETTINGS)
    (path,) = tmp_path.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    if harm == "other":  # a whole file of another question under this name
        cache.fit_batch(X, changed_label(), PROBLEMS, SETTINGS)
        (other,) = set(tmp_path.glob("*.safetensors")) - {path}
        data = bytearray(other.read_bytes())
        calls.pop()
    path.write_bytes({"cut": data[:-40], "empty": b""}.get(harm, bytes(data)))
    assert same(cache.fit_batch(X, Y, PROBLEMS, SETTINGS), solved)
    assert len(calls) == 2
    assert "damaged" in caplog.text
    assert same(cache.fit_batch(X, Y, PROBLEMS, SETTINGS), solved)
    assert len(calls) == 2


def test_the_least_recently_used_go_first_and_half_written_files_are_swept_up(tmp_path: Path) -> None:
    one = {"values": np.zeros(1000)}
    cache = FitCache(tmp_path, max_bytes=30_000)
    for number in range(3):
        cache.recall({"x": np.array([number])}, {}, lambda: one)
        time.sleep(0.01)
    cache.recall({"x": np.array([0])}, {}, lambda: pytest.fail("it is kept"))
    killed = tmp_path / f".{'0' * 40}.safetensors.abcd1234.partial"
    killed.touch()
    os.utime(killed, (1.0, 1.0))
    cache.recall({"x": np.array([3])}, {}, lambda: one)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 30_000
    assert not list(tmp_path.glob("*.partial"))
    cache.recall({"x": np.array([0])}, {}, lambda: pytest.fail("it was used last"))
    asked: list[int] = []
    cache.recall({"x": np.array([1])}, {}, lambda: asked.append(1) or one)
    assert asked == [1]


def test_what_is_larger_than_the_room_is_not_kept(tmp_path: Path) -> None:
    FitCache(tmp_path, max_bytes=100).recall({"x": np.zeros(1)}, {}, lambda: {"values": np.zeros(100)})
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cant_be_written_costs_no_sweep(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "fits").write_text("a file in the way")
    solved = FitCache(tmp_path / "fits").fit_batch(X, Y, PROBLEMS, SETTINGS)
    assert same(solved, FitCache().fit_batch(X, Y, PROBLEMS, SETTINGS))
    assert "not kept" in caplog.text


def sweep_three(folder: Path | None, kill_after: int) -> tuple[int, str]:
    """Sweep three poolings; the process kills itself when one more call of the solver would follow."""
    real, n_solved = fit_cache.fit_batch, 0

    def count(*arguments: object) -> FitSolution:
        nonlocal n_solved
        n_solved += 1
        if n_solved > kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)  # type: ignore[arg-type]

    embeddings, task = make_task(dim=30)
    blocks = tuple(ColumnBlock(name, 10 * i, 10 * i + 10) for i, name in enumerate("abc"))
    config = SweepConfig(penalties=(0.01, 0.1, 1.0), folds=4, poolings=(("a",), ("b",), ("c",)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_cache, "fit_batch", count)
        results = sweep(replace(embeddings, blocks=blocks), task, config, SweepSupport(FitCache(folder)))
    return n_solved, repr([(result.head.head_id, result.trials.rows()) for result in results])


def test_a_sweep_killed_between_poolings_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path\nfrom tests.heads.test_fit_cache import *\nsweep_three(Path({str(tmp_path)!r}), 2)"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    n_resumed, resumed = sweep_three(tmp_path, 99)
    n_whole, whole = sweep_three(None, 99)
    assert resumed == whole
    assert n_resumed == n_whole - 2
    assert sweep_three(tmp_path, 0) == (0, whole)  # nothing is left to solve


@pytest.mark.parametrize("error", ["safetensors", "memory"])
def test_whatever_fails_while_fits_are_kept_or_read_only_costs_time(
    tmp_path: Path, calls: list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    import safetensors
    import safetensors.numpy

    def fail(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("I/O error") if error == "safetensors" else MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save", fail)
        expected = FitCache(tmp_path).fit_batch(X, Y, PROBLEMS, SETTINGS)
        assert same(FitCache(tmp_path).fit_batch(X, Y, PROBLEMS, SETTINGS), expected)
    assert [record.message.count("solved fits are not kept") for record in caplog.records] == [1], "said once"
    assert not list(tmp_path.iterdir())
    FitCache(tmp_path).fit_batch(X, Y, PROBLEMS, SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(safetensors, "safe_open", fail)
        assert same(FitCache(tmp_path).fit_batch(X, Y, PROBLEMS, SETTINGS), expected)
    assert len(calls) == 4
