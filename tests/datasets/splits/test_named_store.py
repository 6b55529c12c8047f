"""Split files: equal bytes for equal splits, nothing accepted that was changed, leaks by today's groups."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.splits.named import find_split, load_split, named_split, save_split
from histotune.datasets.splits.split import Split
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError
from histotune.tools.files import hash_json
from tests.datasets.splits.cohorts import make_tiles, tiles_of_cases

TILES = tiles_of_cases([(i % 2, 3 + i % 4) for i in range(12)])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "split.json"
    save_split(named_split("grouped-4-seed0", TILES), path)
    return path


def message(path: Path, tiles: TileSet = TILES) -> str:
    with pytest.raises(UserError) as caught:
        load_split(path, tiles)
    return str(caught.value)


def test_a_split_comes_back_as_it_was(saved: Path, tmp_path: Path) -> None:
    split = load_split(saved, TILES)
    assert split == named_split("grouped-4-seed0", TILES)
    turned = replace(split, side_by_key=dict(reversed(list(split.side_by_key.items()))))
    save_split(turned, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == saved.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@settings(max_examples=40)
@given(st.data())
def test_no_truncated_or_flipped_file_is_accepted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("split") / "split.json"
    save_split(named_split("grouped-4-seed0", TILES), path)
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 3))  # the last bytes are a brace and a line break
    changed = content[:place] if data.draw(st.booleans()) else (
        content[:place] + bytes([content[place] ^ (1 << data.draw(st.integers(0, 6)))]) + content[place + 1 :]
    )  # fmt: skip
    path.write_bytes(changed)
    try:
        loaded = load_split(path, TILES)
    except UserError as error:
        assert str(error).count("fix:") == 1
    else:  # white space of the layout may change
        assert loaded == named_split("grouped-4-seed0", TILES)


@pytest.mark.parametrize("field", ["name", "notes", "leaky", "partial", "kind", "side_by_key"])
def test_a_field_changed_by_hand_is_found(field: str, saved: Path) -> None:
    data = json.loads(saved.read_text())
    first = next(iter(data["side_by_key"]))
    data[field] = {
        "name": "better", "notes": ["fine"], "leaky": True, "partial": True, "kind": "parts",
        "side_by_key": {**data["side_by_key"], first: "1" if data["side_by_key"][first] == "0" else "0"},
    }[field]  # fmt: skip
    saved.write_text(json.dumps(data))
    assert "was changed after it was written: its hash does not match its content" in message(saved)


def test_a_file_with_matching_hashes_but_impossible_sides_is_refused(tmp_path: Path) -> None:
    save_split(Split("x", "folds", "group", {"case-00": "0", "case-01": "2"}), tmp_path / "split.json")
    assert "its hash does not match its content" in message(tmp_path / "split.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated or no JSON"),
        (b"\xff\xfe", "truncated or no JSON"),
        (b'{"format": "histotune split 1"', "truncated or no JSON"),
        (b"[" * 100_000, "truncated or no JSON"),
        (b'{"a": 1}', "no split of histotune"),
        (b"[1]", "no split of histotune"),
        (b'{"format": "histotune split 1", "name": 3}', "changed by hand or by another version"),
    ],
)
def test_other_files_give_one_message(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_bytes(content)
    text = message(path)
    assert words in text
    assert "histotune data split" in text
    assert "there is no such split file" in message(tmp_path)
    assert "there is no such split file" in message(tmp_path / "nowhere.json")


def test_missing_and_extra_groups_are_counted(saved: Path) -> None:
    fewer = TILES.where(~pl.col("group_id").is_in(["case-03", "case-05"]))
    assert "2 of its 12 groups are not among the tiles (case-03, case-05)" in message(saved, fewer)
    more = tiles_of_cases([(i % 2, 3 + i % 4) for i in range(15)])
    assert "3 groups of the tiles are not in it (case-12, case-13, case-14)" in message(saved, more)


def test_a_partial_split_leaves_new_tiles_out_and_says_so(tmp_path: Path) -> None:
    split = Split("own", "parts", "tile", {"tile-00000": "train", "tile-00004": "test"}, partial=True)
    save_split(split, tmp_path / "split.json")
    loaded = load_split(tmp_path / "split.json", TILES)
    assert loaded.notes == (f"{len(TILES) - 2} tiles take no part in this split.",)
    assert "1 of its 2 tiles are not among the tiles" in message(tmp_path / "split.json", TILES.where(pl.col("row").is_null() & (pl.col("tile_id") != "tile-00004")))  # fmt: skip  # noqa: E501


def test_a_leak_is_judged_by_todays_groups(tmp_path: Path) -> None:
    before = make_tiles(["a", "b", "c", "d"], [0, 1, 0, 1])
    split = Split("own", "parts", "tile", dict(zip(before.tile_ids, ("train", "train", "test", "test"), strict=True)))
    save_split(split, tmp_path / "split.json")
    assert not load_split(tmp_path / "split.json", before).leaky
    today = make_tiles(["a", "b", "a", "d"], [0, 1, 0, 1])
    text = message(tmp_path / "split.json", today)
    assert "the split own leaks: 1 group lies on two sides of this split (a)" in text
    assert "--allow-leaky" in text
    loaded = load_split(tmp_path / "split.json", today, allow_leaky=True)
    assert loaded.leaky
    assert loaded.notes[1] == (
        "LEAKY: 1 of 2 tiles of test come from groups that also lie on another side (benign 1 of 1, malignant 0 of 1)."
    )


def test_names_win_over_files_and_files_over_typing_errors(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grouped-4-seed0").write_text("a file of this name", encoding="utf-8")
    assert find_split("grouped-4-seed0", TILES) == find_split("split.json", TILES)
    saved.rename(tmp_path / "mine")
    assert find_split("mine", TILES).name == "grouped-4-seed0"
    with pytest.raises(UserError, match="there is no such split file"):
        find_split("other.json", TILES)
    with pytest.raises(UserError, match="unknown split"):
        find_split("other", TILES)


def test_only_splits_are_replaced(saved: Path, tmp_path: Path) -> None:
    split = named_split("grouped-4-seed1", TILES)
    save_split(split, saved)
    assert load_split(saved, TILES).name == "grouped-4-seed1"
    saved.write_bytes(saved.read_bytes()[:-40])
    save_split(split, saved)
    assert load_split(saved, TILES) == split
    (tmp_path / "notes.json").write_text('{"mine": true}', encoding="utf-8")
    with pytest.raises(UserError, match="something else than a split lies here"):
        save_split(split, tmp_path / "notes.json")
    with pytest.raises(UserError, match="something else than a split lies here"):
        save_split(split, tmp_path)


def test_the_file_holds_what_it_promises(saved: Path) -> None:
    data = json.loads(saved.read_text())
    assert data["split_hash"] == hash_json(["group", data["side_by_key"]])
    assert saved.read_text() == json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
