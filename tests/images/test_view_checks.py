"""A view that can't be made, or that changes what a label means, is refused before anything is embedded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from histotune.datasets.tileset import LabelRegion, TileSet, tile_table
from histotune.images.config import ViewConfig
from histotune.images.view_checks import check_view, moves_label, view_notes
from histotune.tools.errors import UserError

CENTRE = LabelRegion(left_px=32, top_px=32, width_px=32, height_px=32)


def tile_set(width_px: int, height_px: int, mpp: list[float | None], region: LabelRegion | None = None) -> TileSet:
    n = len(mpp)
    table = tile_table({
        "tile_id": [f"{number}" for number in range(n)], "path": ["p"] * n, "mpp": mpp,
        "width_px": [width_px] * n, "height_px": [height_px] * n,
    })  # fmt: skip
    return TileSet("made up", table, ("a", "b"), "", "", label_region=region)


def pcam() -> TileSet:
    return tile_set(96, 96, [0.972] * 3, CENTRE)


@pytest.mark.parametrize(
    "view",
    [
        ViewConfig(),
        ViewConfig(name="square"),
        ViewConfig(name="letterbox"),
        ViewConfig(name="tiles"),  # one crop of a square image
        ViewConfig(target_mpp=0.417),
        ViewConfig(target_mpp=2.0),
        ViewConfig(target_mpp=32 * 0.972 / 224),  # the crop ends where the region ends
        ViewConfig(name="letterbox", target_mpp=0.972),
        ViewConfig(name="square", target_mpp=0.2),
    ],
    ids=lambda view: view.words,
)
def test_views_that_keep_the_label_pass(view: ViewConfig) -> None:
    assert check_view(pcam(), view).known_N.all()
    assert not moves_label(pcam(), view)
    assert not any("LABEL MOVED" in note for note in view_notes(pcam(), view))


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (ViewConfig(name="tiles", target_mpp=0.25), "moves it in 3 tiles"),
        (ViewConfig(target_mpp=0.13), "cuts it in 3 tiles"),
        (ViewConfig(name="square", target_mpp=0.1), "cuts it in 3 tiles"),
    ],
    ids=lambda value: getattr(value, "words", ""),
)
def test_views_that_move_or_cut_the_label_are_refused_unless_flagged(view: ViewConfig, words: str) -> None:
    with pytest.raises(UserError, match=f"32 x 32 px at .*{words}") as caught:
        check_view(pcam(), view)
    assert "view.allow_moved_label=true" in str(caught.value)
    accepted = view.model_copy(update={"allow_moved_label": True})
    check_view(pcam(), accepted)
    assert moves_label(pcam(), accepted)
    assert any("LABEL MOVED" in note for note in view_notes(pcam(), accepted))
    check_view(replace(pcam(), label_region=None), view)


def test_a_region_off_the_centre_is_cut_by_the_documented_view_of_a_wide_tile() -> None:
    left = tile_set(700, 460, [1.0], LabelRegion(10, 100, 50, 50))
    with pytest.raises(UserError, match="cuts it in 1 tile"):
        check_view(left, ViewConfig())
    check_view(left, ViewConfig(name="letterbox"))
    with pytest.raises(UserError, match="several crops"):
        check_view(left, ViewConfig(name="tiles"))


def test_unknown_scale_is_counted_and_the_fix_is_named() -> None:
    tiles = tile_set(96, 96, [0.5, None, None])
    with pytest.raises(UserError, match=r"2 of 3 tiles of made up have no mpp(?s:.*)--set source\.mpp=0\.25"):
        check_view(tiles, ViewConfig(target_mpp=0.5))
    check_view(tiles, ViewConfig())


def test_images_out_of_bounds_are_counted() -> None:
    tiles = tile_set(700, 460, [2.5, 2.5, 0.25])
    with pytest.raises(UserError, match=r"2 tiles of made up would be resized to more than(?s:.*)larger"):
        check_view(tiles, ViewConfig(target_mpp=0.1))
    with pytest.raises(UserError, match="2 tiles of made up would need up to 672 crops"):
        check_view(tiles, ViewConfig(name="tiles", target_mpp=0.25))


def test_a_letterbox_never_cuts_and_names_the_scale_that_fits() -> None:
    tiles = tile_set(700, 460, [2.5, 0.25])
    with pytest.raises(UserError, match=r"1 tile of made up do not fit(?s:.*)at least 7\.81 um/px"):
        check_view(tiles, ViewConfig(name="letterbox", target_mpp=1.0))
    check_view(tiles, ViewConfig(name="letterbox", target_mpp=7.82))


def test_mistakes_are_reported_together() -> None:
    tiles = tile_set(96, 96, [0.972, 0.972, None], CENTRE)
    with pytest.raises(UserError) as caught:
        check_view(tiles, ViewConfig(target_mpp=0.1))
    assert "no mpp" in str(caught.value) and "cuts it in 2 tiles" in str(caught.value)


def test_notes_say_what_is_cut_padded_enlarged_and_covered() -> None:
    breakhis = tile_set(700, 460, [2.5, 1.0, 0.5, 0.25])
    assert view_notes(breakhis, ViewConfig()) == (
        "The view cuts 4 tiles: the network sees 66 % of their area.",
    )  # fmt: skip
    assert view_notes(breakhis, ViewConfig(name="square")) == ()
    assert view_notes(breakhis, ViewConfig(name="letterbox")) == (
        "The view pads 4 tiles with RGB (255, 255, 255): 34 % of the network's input is padding.",
    )
    scaled = view_notes(breakhis, ViewConfig(name="tiles", target_mpp=1.0))
    assert scaled == (
        "The view pads 1 tile with RGB (255, 255, 255): 60 % of the network's input is padding.",
        "The view enlarges 1 tile: there the network sees no more detail than 2.5 um/px hold.",
        "The view covers each tile with 1 to 48 crops and averages their embeddings.",
    )
    assert view_notes(tile_set(96, 96, [None]), ViewConfig()) == (
        "The view enlarges 1 tile: there the network sees no more detail than the stored pixels hold.",
    )
    assert view_notes(tile_set(224, 224, [0.5]), ViewConfig()) == ()
