"""`histotune explain`: pictures, terms and an index that add up; what can't be drawn is one message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import histotune as ht
from histotune.deploy.bundle import load_bundle, save_bundle
from histotune.heads.head import HiddenLayer
from tests.conftest import CommandResult
from tests.deploy.conftest import train, write_cases

Histotune = Callable[..., CommandResult]


def test_pictures_terms_and_index_add_up(histotune: Histotune, cases_head: Path, tmp_path: Path) -> None:
    images = sorted((tmp_path / "train").glob("c0_00[01]_*.png"))
    result = histotune("explain", cases_head, *images, "--out", tmp_path / "maps")
    assert result.code == 0, result.err
    index = pl.read_csv(tmp_path / "maps" / "index.csv")
    assert index.height == len(images) == 8
    np.testing.assert_allclose(index["baseline"] + index["cls_term"] + index["map_sum"], index["logit"], atol=1e-5)
    predicted = ht.predict(cases_head, images)
    np.testing.assert_allclose(index["probability"], predicted["probability_malignant"], atol=1e-5)
    log_odds = np.log(index["probability"] / (1 - index["probability"]))
    np.testing.assert_allclose(index["logit"], log_odds, atol=1e-6)
    terms = pl.read_parquet(tmp_path / "maps" / "terms.parquet")
    summed = terms.group_by("path", maintain_order=True).agg(pl.col("term").sum())
    np.testing.assert_allclose(summed["term"], index["map_sum"], atol=1e-9)
    assert terms["right_px"].max() == pytest.approx(24)
    for name in index["picture"]:
        with Image.open(tmp_path / "maps" / name) as picture:
            assert min(picture.size) > 400
    assert "% of what is added, not in the map" in result.out
    page = (tmp_path / "maps" / "index.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 8 and "://" not in page


def test_the_same_maps_are_the_same_files(histotune: Histotune, cases_head: Path, tmp_path: Path) -> None:
    image = tmp_path / "train" / "c0_000_0.png"
    for kind in ("png", "svg"):
        kept = []
        for out in ("one", "two", "one"):
            assert histotune("explain", cases_head, image, "--out", tmp_path / out, "--format", kind).code == 0
            kept.append({path.name: path.read_bytes() for path in (tmp_path / out).iterdir()})
        assert kept[0] == kept[1] == kept[2]
        assert f"0001-c0_000_0.{kind}" in kept[0]


def test_odd_names_are_text_in_the_page_and_plain_in_files(
    histotune: Histotune, cases_head: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "<img src=x onerror=alert(1)> $x_1$.png"
    Image.fromarray(np.full((30, 40, 3), 128, np.uint8)).save(odd)
    assert histotune("explain", cases_head, odd, "--out", tmp_path / "maps").code == 0
    page = (tmp_path / "maps" / "index.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and "&lt;img src=x" in page
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {
        "0001-img-src-x-onerror-alert-1-x_1.png", "index.csv", "index.html", "terms.parquet",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--class", "malign"), "malignant"), (("--format", "gif"), "png, svg"),
        (("--set", "embedding.devise=cpu"), "device"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_message(
    histotune: Histotune, cases_head: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    result = histotune("explain", cases_head, tmp_path / "train" / "c0_000_0.png", "--out", tmp_path / "maps", *words)
    assert result.code == 2 and said in result.err
    assert not (tmp_path / "maps").exists()


def test_a_folder_of_other_files_is_not_replaced(histotune: Histotune, cases_head: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    result = histotune("explain", cases_head, tmp_path / "train" / "c0_000_0.png", "--out", tmp_path / "mine")
    assert result.code == 2 and "notes.txt" in result.err
    assert (tmp_path / "mine" / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_an_unreadable_image_leaves_no_folder(histotune: Histotune, cases_head: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes((tmp_path / "train" / "c0_000_0.png").read_bytes()[:100])
    result = histotune("explain", cases_head, tmp_path / "torn.png", "--out", tmp_path / "maps")
    assert result.code == 2 and "torn.png" in result.err
    assert not (tmp_path / "maps").exists()


def test_an_mlp_is_refused_before_anything_is_loaded(
    histotune: Histotune, cases_head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(cases_head)
    rng = np.random.default_rng(0)
    hidden = HiddenLayer(rng.normal(size=(8, len(bundle.head.columns))), np.zeros(8))
    mlp = replace(bundle.head, hidden=hidden, weight_KD=rng.normal(size=(2, 8)), saved_id="")
    save_bundle(replace(bundle, head=mlp), tmp_path / "mlp")
    monkeypatch.setattr("histotune.deploy.maps.read_unlabelled_images", None)
    result = histotune("explain", tmp_path / "mlp", tmp_path / "train", "--out", tmp_path / "maps")
    assert result.code == 2
    assert "MLP is no sum" in result.err and "sweep.family=logistic" in result.err


def test_a_target_scale_needs_the_scale_and_maps_back_from_it(histotune: Histotune, tmp_path: Path) -> None:
    options = ("--set", "view.target_mpp=0.25", "--set", "view.size_px=64")
    head = train(histotune, write_cases(tmp_path / "train", 12, 0), tmp_path / "head", *options)
    image = tmp_path / "train" / "c0_000_0.png"
    refused = histotune("explain", head, image, "--out", tmp_path / "maps")
    assert refused.code == 2 and "--mpp" in refused.err
    assert histotune("explain", head, image, "--out", tmp_path / "maps", "--mpp", "0.5").code == 0
    terms = pl.read_parquet(tmp_path / "maps" / "terms.parquet")
    assert terms["left_px"].min() == pytest.approx(-4)  # 24 px become 48, 8 of padding on each side of them are 4
    table = pl.read_csv(tmp_path / "maps" / "index.csv")
    predicted = ht.predict(head, image, mpp=0.5)
    assert table["probability"][0] == pytest.approx(predicted["probability_malignant"][0], abs=1e-6)


def test_in_python_the_index_comes_back(histotune: Histotune, cases_head: Path, tmp_path: Path) -> None:
    image = tmp_path / "train" / "c0_001_0.png"
    index = ht.explain(cases_head, image, tmp_path / "maps", class_name="benign")
    assert index["class"].to_list() == ["benign"]
    assert (tmp_path / "maps" / index["picture"][0]).is_file()
