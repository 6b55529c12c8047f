"""A map of embeddings: principal components against scikit-learn, the draw, and what does not change it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import PCA

from histotune.evaluation import robustness
from histotune.evaluation.config import EvaluationConfig
from histotune.evaluation.findings import ScoredArm
from histotune.evaluation.held_out import ArmMaterial, StudySettings, study_source
from histotune.evaluation.material import Material, ScoredRows, build_predictions
from histotune.evaluation.robustness import EmbeddedArm, map_embeddings, principal_components
from histotune.heads.config import SweepConfig
from histotune.statistics.predictions import IntervalConfig
from histotune.tools.marks import PROBE

MakeMaterial = Callable[..., Material]
DOMAINS = ("toy 100X", "toy 400X")


def placed(data: Material, domains: tuple[str, ...] = DOMAINS, **changes: object) -> pl.DataFrame | None:
    n = len(data.tiles)
    scored = ScoredRows(np.arange(n), np.zeros((n, 2)), np.full((n, 2), 0.5), ["h"] * n, np.zeros(n, np.int64), 0, "s")
    probes = [ScoredArm(PROBE, domain, "somewhere", 2.0, ()) for domain in domains]
    arm = EmbeddedArm(PROBE, data, ("pooled",))
    return map_embeddings(arm, build_predictions(data, scored), probes, EvaluationConfig(**changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "dim"), [(60, 9), (9, 60), (30, 30), (20, 1)])
def test_components_equal_those_of_scikit_learn(n: int, dim: int) -> None:
    x_ND = np.random.default_rng(0).normal(size=(n, dim)) * np.linspace(3.0, 1.0, dim) + 100.0
    found = principal_components(x_ND, 2)
    peer = PCA(min(2, dim), svd_solver="full").fit(x_ND)
    score_NC = peer.transform(x_ND)
    for column in range(score_NC.shape[1]):
        sign = np.sign(score_NC[0, column] * found.score_NC[0, column])
        np.testing.assert_allclose(found.score_NC[:, column], sign * score_NC[:, column], atol=1e-8)
        assert found.score_NC[np.abs(found.score_NC[:, column]).argmax(), column] > 0
    np.testing.assert_allclose(found.share_C[: score_NC.shape[1]], peer.explained_variance_ratio_, atol=1e-12)
    assert found.score_NC.shape == (n, 2)


def test_equal_rows_have_no_components() -> None:
    found = principal_components(np.ones((6, 4)), 2)
    assert not found.score_NC.any() and not found.share_C.any()


def test_the_map_shows_every_scored_tile_once(material: MakeMaterial) -> None:
    table = placed(material(), DOMAINS[:1])
    assert table is not None
    assert table.columns == ["method", "tile_id", "class", "group_id", "site", "scanner", "stain", "n_tiles", "x", "y",
                             "x_share", "y_share"]  # fmt: skip
    assert len(table) == 96 and table["tile_id"].is_sorted() and table["tile_id"].str.contains("100X").all()
    assert set(table["class"]) == {"benign", "malignant"} and set(table["method"]) == {"pca"}
    assert max(table["x"].abs().max(), table["y"].abs().max()) == 1.0  # type: ignore[type-var]
    assert 0 < table["y_share"][0] < table["x_share"][0] < 1


def test_row_order_changes_no_place(material: MakeMaterial) -> None:
    data = material()
    order = np.random.default_rng(0).permutation(len(data.tiles))
    first, second = placed(data), placed(data.take(order))
    assert first is not None and second is not None and first.equals(second)


def test_many_tiles_are_drawn_over_all_groups(material: MakeMaterial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustness, "MAX_POINTS", 48)
    table = placed(material())
    assert table is not None
    assert table.group_by("group_id").len()["len"].to_list() == [3] * 16
    assert set(table["n_tiles"]) == {192}


def test_tsne_stands_beside_the_components_and_repeats(material: MakeMaterial) -> None:
    data = material(n_groups=8, tiles_per_group=4, class_effect=8.0, group_effect=0.1)
    table = placed(data, embedding_map="tsne")
    assert table is not None
    other = table.filter(pl.col("method") == "tsne")
    assert len(table) == 2 * len(other) == 128
    assert other["x_share"].null_count() == len(other)
    assert table.equals(placed(data, embedding_map="tsne"))  # type: ignore[arg-type]
    centre = other.group_by("class").agg(pl.col("x", "y").mean()).sort("class")
    spread = other.group_by("class").agg(pl.col("x", "y").std())
    apart = np.hypot(*(centre[name][1] - centre[name][0] for name in ("x", "y")))
    assert apart > spread["x"].max()  # type: ignore[operator]


def test_no_map_where_none_is_asked_for_or_there_is_nothing_to_see(material: MakeMaterial) -> None:
    data = material()
    assert placed(data, embedding_map="none") is None
    assert placed(data.take(np.arange(3)), DOMAINS) is None


def test_a_study_keeps_the_map_of_its_in_domain_tiles(material: MakeMaterial) -> None:
    evaluation = EvaluationConfig(train_magnification="100X", outer_folds=3, leak_price=False)
    settings = StudySettings(evaluation, SweepConfig(penalties=(0.1, 1.0), folds=3), IntervalConfig())
    table = study_source((ArmMaterial(PROBE, material(n_groups=12)),), settings).embedding_map
    assert table is not None and len(table) == 72
