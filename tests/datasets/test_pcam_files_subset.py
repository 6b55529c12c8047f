"""A smaller part: whole slides first, classes as even as they can be, never more than asked for."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.pcam_files import keep_rows

NAMES = ("normal", "tumour")


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["a", "b", "c", "d", None])), min_size=1, max_size=80),
    st.integers(1, 90), st.integers(0, 3), st.booleans(),
)  # fmt: skip
def test_the_limit_is_met_and_classes_are_as_even_as_they_can_be(tiles, max_tiles, seed, known) -> None:  # noqa: ANN001
    labels_N = np.array([label for label, _ in tiles])
    slides = [slide for _, slide in tiles] if known else None
    rows, note = keep_rows(labels_N, slides, NAMES, max_tiles, seed)
    assert len(rows) == len(set(rows.tolist())) == min(max_tiles, len(tiles))
    assert rows.tolist() == sorted(rows.tolist())
    assert (note == "") == (max_tiles >= len(tiles))
    available, kept = Counter(labels_N.tolist()), Counter(labels_N[rows].tolist())
    if max_tiles < len(tiles):
        small = min(available[0], available[1], max_tiles // 2)
        assert min(kept[0], kept[1]) == small


def test_whole_slides_come_first_and_the_rest_is_spread() -> None:
    slides = [f"slide-{i // 10}" for i in range(100)]
    labels_N = np.array([i % 2 for i in range(100)])
    rows, note = keep_rows(labels_N, slides, NAMES, 24, seed=0)
    sizes = Counter(slides[row] for row in rows.tolist())
    assert sorted(sizes.values(), reverse=True) == [10, 10, *([1] * (len(sizes) - 2))]
    assert len(sizes) >= 4
    assert note == f"kept 24 of 100 tiles (12 normal, 12 tumour) from {len(sizes)} slides, 2 of them whole."


def test_slides_larger_than_the_limit_are_taken_in_part_from_all() -> None:
    slides = [f"slide-{i // 50}" for i in range(400)]
    labels_N = np.array([i % 2 for i in range(400)])
    rows, _ = keep_rows(labels_N, slides, NAMES, 32, seed=0)
    assert Counter(Counter(slides[row] for row in rows.tolist()).values()) == {4: 8}


def test_unknown_slides_are_drawn_tile_by_tile() -> None:
    labels_N = np.array([0] * 50 + [1] * 50)
    rows, note = keep_rows(labels_N, None, NAMES, 10, seed=0)
    assert note == "kept 10 of 100 tiles (5 normal, 5 tumour), drawn at random; slides are unknown."
    assert rows.tolist() != list(range(5)) + list(range(50, 55))


def test_zero_keeps_everything() -> None:
    rows, note = keep_rows(np.array([0, 1]), None, NAMES, 0, seed=0)
    assert (rows.tolist(), note) == ([0, 1], "")
