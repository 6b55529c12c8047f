"""Repair sweeps up exactly what nothing needs; listing and removing never touch what a process holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from histotune.embeddings import embed as embed_module
from histotune.embeddings import gather
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbedRequest
from histotune.embeddings.store import ShardPlan, Store
from histotune.embeddings.upkeep import (
    check_space,
    find_stores,
    parse_age,
    remove_spaces,
    repair_space,
    stores,
    take_inventory,
)
from histotune.tools.errors import UserError
from histotune.tools.files import is_locked, lock
from tests.embeddings.conftest import write_tiles

Requests = Callable[..., EmbedRequest]


def filled(tmp_path: Path, request_for: Requests, n: int = 11) -> Store:
    tiles, request = write_tiles(tmp_path / "tiles", n), request_for()
    return Store(request.cache, embed(tiles, request).space)


def test_repair_sweeps_up_debris_and_keeps_every_row(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_module, "gather", lambda *given: gather.gather(*given, in_memory_bytes=100))
    store = filled(tmp_path, request_for)
    before = {path: path.read_bytes() for path in sorted(store.folder.rglob("*")) if path.is_file()}
    store.write_plan([ShardPlan(("e" * 64,), 2)])
    (planned,) = store.read_plan()
    debris = {
        ".space.json.abcd1234.partial": "half-written by a killed run",
        f"shards/.{'0' * 24}.npy.abcd1234.partial": "half-written by a killed run",
        f"shards/{planned.name}.npy": "planned matrix without manifest: never counted",
        f"gathered/{'1' * 24}.json": "gathered matrix that is damaged or out of date",
        f"gathered/{'1' * 24}.npy": "gathered matrix that is damaged or out of date",
    }
    for name in debris:
        (store.folder / name).write_text('{"shards": {"a": "b"}, "blocks": []}', encoding="utf-8")
    assert {item.name: item.reason for item in check_space(store).debris} == debris
    repair = repair_space(store)
    assert (repair.n_lost, repair.n_pending, len(repair.check.debris)) == (0, 1, 5)
    store.drop_plan()
    assert {path: path.read_bytes() for path in sorted(store.folder.rglob("*")) if path.is_file()} == before
    assert check_space(store) == replace(repair.check, debris=())


def test_a_damaged_plan_is_dropped(tmp_path: Path, request_for: Requests) -> None:
    store = filled(tmp_path, request_for)
    (store.folder / "pending.json").write_bytes(b"{")
    assert [item.reason for item in check_space(store).debris] == ["damaged plan of an interrupted run"]
    repair_space(store)
    assert not (store.folder / "pending.json").exists()


def test_a_damaged_manifest_is_set_aside_and_a_foreign_json_is_not(tmp_path: Path, request_for: Requests) -> None:
    store = filled(tmp_path, request_for)
    name = next(iter(store.manifests()))
    (store.folder / "shards" / f"{name}.json").write_bytes(b"{")
    (store.folder / "shards" / "mine.json").write_text(json.dumps([1]), encoding="utf-8")
    repair = repair_space(store)
    assert [damage.reason for damage in repair.check.damaged] == ["its manifest can't be read"]
    assert repair.check.foreign == ("shards/mine.json",)
    assert (store.folder / "damaged" / f"{name}.json").is_file()
    assert (store.folder / "shards" / "mine.json").is_file()
    assert len(store.manifests()) == 2


def test_repair_tells_what_is_lost_and_what_an_interrupted_run_left(tmp_path: Path, request_for: Requests) -> None:
    store = filled(tmp_path, request_for)
    name, manifest = next(iter(store.manifests().items()))
    (store.folder / "shards" / f"{name}.npy").write_bytes(b"x" * manifest.n_bytes)
    done = ShardPlan(next(iter(reversed(store.manifests().values()))).content, 2)
    store.write_plan([done, ShardPlan(("e" * 64, "f" * 64), 2)])
    repair = repair_space(store)
    assert (repair.n_lost, repair.n_pending, repair.external) == (len(manifest.content), 2, False)
    assert store.read_plan() == (ShardPlan(("e" * 64, "f" * 64), 2),)  # what is done needs no plan


def test_a_plan_that_is_done_is_dropped(tmp_path: Path, request_for: Requests) -> None:
    store = filled(tmp_path, request_for)
    store.write_plan([ShardPlan(manifest.content, 2) for manifest in store.manifests().values()])
    assert repair_space(store).n_pending == 0
    assert not (store.folder / "pending.json").exists()


def test_a_description_that_speaks_of_another_space_is_not_believed(tmp_path: Path, request_for: Requests) -> None:
    store = filled(tmp_path, request_for)
    facts = json.loads((store.folder / "space.json").read_text(encoding="utf-8"))
    (store.folder / "space.json").write_text(json.dumps({**facts, "precision": "bf16"}), encoding="utf-8")
    (found,) = take_inventory(tmp_path / "cache").spaces
    assert (found.backbone, found.n_rows, found.key) == ("unknown", 11, store.folder.name)
    assert check_space(stores(tmp_path / "cache")[0]).damaged == ()


def test_what_a_running_process_holds_is_left_alone(tmp_path: Path, request_for: Requests) -> None:
    store, other = filled(tmp_path, request_for), None
    embed(write_tiles(tmp_path / "tiles", 11), request_for(size_px=20))
    with lock(store.lock_path):
        (held,) = [space for space in take_inventory(tmp_path / "cache").spaces if space.in_use]
        assert held.key == store.space.key
        with pytest.raises(UserError, match="running process"):
            repair_space(store)
        with pytest.raises(UserError, match=f"(?s)running process.*{store.short_name}"):
            remove_spaces(stores(tmp_path / "cache"))
    assert not is_locked(store.lock_path)
    (other,) = stores(tmp_path / "cache")  # the one that nobody held is gone
    assert other.space == store.space and len(other.manifests()) == 3


def test_spaces_are_named_by_digits_or_backbone(tmp_path: Path, request_for: Requests) -> None:
    store = filled(tmp_path, request_for)
    cache = tmp_path / "cache"
    for names in ([], ["colour-histogram"], [store.space.key[:4]], [store.short_name, "colour-histogram"]):
        assert [found.space for found in find_stores(cache, names)] == [store.space]
    for name in (store.space.key[:3], "lite0"):
        with pytest.raises(UserError, match="no such embedding space"):
            find_stores(cache, [name])


def test_sizes_and_rows_add_up(tmp_path: Path, request_for: Requests) -> None:
    store = filled(tmp_path, request_for)
    inventory = take_inventory(tmp_path / "cache")
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert inventory.n_bytes == sum(path.stat().st_size for path in files)
    (space,) = inventory.spaces
    assert (space.n_rows, space.n_shards, space.view) == (11, 3, "short-side-crop 14 px, bicubic")
    assert [(other.name, other.n_entries) for other in inventory.others] == [("hashes.sqlite", 11)]
    assert np.isclose(space.last_used_s, (store.folder / "space.json").stat().st_mtime)


@pytest.mark.parametrize(("text", "seconds_s"), [("12h", 43200), ("30d", 2592000), ("2w", 1209600), ("1.5D", 129600)])
def test_ages(text: str, seconds_s: float) -> None:
    assert parse_age(text) == seconds_s


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y"])
def test_no_ages(text: str) -> None:
    with pytest.raises(UserError, match="no age"):
        parse_age(text)
