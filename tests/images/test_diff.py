from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.tileset import TileSet, tile_table
from histotune.images.diff import diff_datasets, render_diff
from histotune.images.hashes import HashIndex
from histotune.tools.errors import UserError

from ..conftest import write_pcam


def made(folder: Path, contents: dict[str, bytes], **columns: list[object]) -> TileSet:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    ids = list(contents)
    rows = {"tile_id": ids, "path": [str(folder / name) for name in ids], "label": [0] * len(ids), **columns}
    return TileSet("mine", tile_table(rows), ("normal", "tumour"), licence="", citation="")


def kinds(before: TileSet, after: TileSet) -> list[tuple[str, str, str, str]]:
    changes = diff_datasets(before, after, HashIndex(None)).changes
    return [(change.kind, change.tile_id, change.before, change.after) for change in changes]


def test_two_equal_versions_differ_in_nothing(tmp_path: Path) -> None:
    contents = {"a": b"1", "b": b"2"}
    diff = diff_datasets(made(tmp_path / "x", contents), made(tmp_path / "y", contents), HashIndex(None))
    assert (diff.changes, diff.n_same) == ((), 2)


def test_every_kind_of_change_is_found(tmp_path: Path) -> None:
    before = made(
        tmp_path / "x", {"a": b"1", "b": b"2", "c": b"3", "gone": b"4", "old": b"5"},
        label=[0, 0, 0, 0, 1], group_id=["g", "g", None, "g", "g"], split=["train"] * 5, mpp=[0.5] * 5,
    )  # fmt: skip
    after = made(
        tmp_path / "y", {"a": b"1", "b": b"changed", "c": b"3", "new": b"5", "fresh": b"6"},
        label=[1, 0, 0, 1, 0], group_id=["g", "g", "h", "g", "g"], split=["test", *["train"] * 4],
        mpp=[0.25, *[0.5] * 4],
    )  # fmt: skip
    found = kinds(before, after)
    assert [change[:2] for change in found] == [
        ("removed", "gone"), ("added", "fresh"), ("renamed", "old"), ("content", "b"),
        ("class", "a"), ("group_id", "c"), ("split", "a"), ("mpp", "a"),
    ]  # fmt: skip
    assert found[2][2:] == ("old", "new")
    assert found[4][2:] == ("normal", "tumour")
    assert found[5][2:] == ("", "h")
    diff = diff_datasets(before, after, HashIndex(None))
    assert (diff.n_before, diff.n_after, diff.n_same, diff.count("split")) == (5, 5, 0, 1)
    text = render_diff(diff)
    assert "c: unknown -> h" in text
    assert "old: old -> new" in text


def test_tiles_of_equal_content_are_paired_in_order_and_the_rest_counts(tmp_path: Path) -> None:
    before = made(tmp_path / "x", {"a": b"same", "b": b"same", "c": b"same"})
    after = made(tmp_path / "y", {"m": b"same", "n": b"same"})
    assert [change[:1] + change[2:] for change in kinds(before, after)] == [
        ("removed", "c", ""), ("renamed", "a", "m"), ("renamed", "b", "n"),
    ]  # fmt: skip


@settings(max_examples=30)
@given(
    old=st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([b"1", b"2", b"3"]), min_size=1),
    new=st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([b"1", b"2", b"3"]), min_size=1),
)
def test_counts_add_up_and_the_reverse_mirrors(
    tmp_path_factory: pytest.TempPathFactory, old: dict[str, bytes], new: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    before, after = made(folder / "x", old), made(folder / "y", new)
    there = diff_datasets(before, after, HashIndex(None))
    back = diff_datasets(after, before, HashIndex(None))
    assert there.n_before - there.count("removed") == there.n_after - there.count("added")
    for kind, mirrored in (("removed", "added"), ("added", "removed"), ("renamed", "renamed"), ("content", "content")):
        assert there.count(kind) == back.count(mirrored)
    assert there.n_same == back.n_same


def test_order_of_rows_and_place_on_disk_do_not_count(tmp_path: Path) -> None:
    before = made(tmp_path / "x", {"a": b"1", "b": b"2"})
    after = made(tmp_path / "y", {"b": b"2", "a": b"1"})
    assert kinds(before, replace(after, table=after.table.sort("tile_id", descending=True))) == []
    assert pl.Series(after.table["path"]).str.contains("/y/").all()


def test_long_lists_are_cut_with_a_count(tmp_path: Path) -> None:
    before = made(tmp_path / "x", {f"{n:03d}": str(n).encode() for n in range(30)})
    text = render_diff(diff_datasets(before, made(tmp_path / "y", {"z": b"z"}), HashIndex(None)), limit=5)
    assert "removed: 30" in text
    assert "and 25 more" in text


def test_different_data_sets_are_not_compared(tmp_path: Path) -> None:
    mine = made(tmp_path / "x", {"a": b"1"})
    with pytest.raises(UserError, match="two versions of one data set"):
        diff_datasets(mine, replace(mine, name="yours"), HashIndex(None))


def test_the_command_compares_two_folders(histotune: Callable[..., Any], pcam: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pcam, copy)
    answer = histotune("data", "diff", "pcam", pcam, copy)
    assert answer.code == 0, answer.err
    assert "120 the same in everything" in answer.out
    write_pcam(tmp_path / "other", n_slides=5)
    answer = histotune("data", "diff", "pcam", pcam, tmp_path / "other")
    assert "slide_id: 60" in answer.out
    assert "content" not in answer.out.split("Content is")[0]
