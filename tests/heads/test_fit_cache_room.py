"""How much room solved fits take: the smaller of logits and weights, and no more than the embeddings, within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from histotune.embeddings.upkeep import LEAST_FIT_BYTES, MOST_FIT_BYTES, fits_room, take_inventory
from histotune.heads import fit_cache
from histotune.heads.config import SweepConfig
from histotune.heads.family import SweepSupport
from histotune.heads.fit_cache import FitCache
from histotune.heads.sweep import sweep
from tests.heads.samples import make_task


def kept_names(folder: Path) -> list[set[str]]:
    names = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            names.append(set(file.keys()))
    return names


@pytest.mark.parametrize("family", ["logistic", "ridge"])
@pytest.mark.parametrize("n", [40, 400])
def test_what_is_kept_changes_no_bit_and_takes_the_less_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, n: int
) -> None:
    embeddings, task = make_task(n_groups=20, n=n)
    config = SweepConfig(family=family, folds=3, penalties=(0.1, 1.0))
    plain = sweep(embeddings, task, config)
    solved = sweep(embeddings, task, config, SweepSupport(FitCache(tmp_path)))
    for name in ("fit_batch", "fit_ridge"):
        monkeypatch.setattr(fit_cache, name, None)  # nothing is solved the second time
    read = sweep(embeddings, task, config, SweepSupport(FitCache(tmp_path)))
    for one, other, third in zip(plain, solved, read, strict=True):
        assert one.head.head_id == other.head.head_id == third.head.head_id
        assert np.array_equal(one.out_of_fold_logit_NK, other.out_of_fold_logit_NK, equal_nan=True)
        assert np.array_equal(one.out_of_fold_logit_NK, third.out_of_fold_logit_NK, equal_nan=True)
        assert one.trials.equals(other.trials) and one.trials.equals(third.trials)
    n_columns = embeddings.matrix_ND.shape[1]
    fewer_logits = task.train_sets_SN.sum() < len(task.train_sets_SN) * config.folds * n_columns
    assert ({"logit_TnK", "converged_P"} in kept_names(tmp_path)) == fewer_logits


@pytest.mark.parametrize(
    ("n_bytes", "room"),
    [(0, LEAST_FIT_BYTES), (LEAST_FIT_BYTES + 5, LEAST_FIT_BYTES + 5), (MOST_FIT_BYTES + 5, MOST_FIT_BYTES)],
)
def test_fits_take_no_more_room_than_the_embeddings(tmp_path: Path, n_bytes: int, room: int) -> None:
    (tmp_path / "embeddings" / "x").mkdir(parents=True)
    with (tmp_path / "embeddings" / "x" / "0.npy").open("wb") as stream:
        stream.truncate(n_bytes)
    assert fits_room(tmp_path) == FitCache.at(tmp_path).max_bytes == room


def test_the_least_recently_used_fits_go_first_and_the_listing_names_the_bound(tmp_path: Path) -> None:
    cache = FitCache(tmp_path / "fits", max_bytes=3 * 8_400)
    values = {name: {"x": np.full(1000, number, np.float64)} for number, name in enumerate("abcd")}
    paths = {}
    for age, name in enumerate("abc"):
        before = set((tmp_path / "fits").glob("*"))
        cache.recall(values[name], {}, lambda name=name: values[name])
        (paths[name],) = set((tmp_path / "fits").glob("*")) - before
        os.utime(paths[name], (1000 + age, 1000 + age))
    cache.recall(values["a"], {}, lambda: pytest.fail("it is kept"))  # used again, so it is not the oldest now
    cache.recall(values["d"], {}, lambda: values["d"])
    assert [name for name in "abc" if paths[name].exists()] == ["a", "c"]
    (fits,) = (one for one in take_inventory(tmp_path).others if one.name == "fits")
    assert fits.n_entries == 3 and fits.what == "solved fits of sweeps, 67.1 MB at most"
