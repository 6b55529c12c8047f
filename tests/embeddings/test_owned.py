"""Commands on a cache touch what histotune wrote; every other file, folder and link stays where and as it is."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histotune.datasets.synthetic.cohort import SyntheticConfig
from histotune.datasets.synthetic.cohort_folder import MARK, cohort_files, write_cohort
from histotune.embeddings.embed import embed
from histotune.embeddings.exchange import export, space_table
from histotune.embeddings.space import EmbedRequest
from histotune.embeddings.store import ShardPlan, Store
from histotune.embeddings.upkeep import remove_rest, remove_spaces, repair_space, stores, take_inventory, unused_fits
from histotune.heads.fit_cache import FitCache
from histotune.tools.errors import UserError
from tests.conftest import CommandResult
from tests.embeddings.conftest import write_tiles

Requests = Callable[..., EmbedRequest]
Command = Callable[..., CommandResult]

FOREIGN = (
    "features.npy", "notes.txt", "model.safetensors", ".half.npy.abc.partial", "space.json.bak",
    "shards/features.npy", "shards/mine.json", "shards/.mine.npy.abcd1234.partial", f"shards/{'a' * 24}.h5",
    "gathered/features.npy", "damaged/thesis.docx", "ranks/plan.txt", "ranks/plan.csv", "extra/features.npy",
)  # fmt: skip


def filled(tmp_path: Path, request_for: Requests) -> Store:
    tiles, request = write_tiles(tmp_path / "tiles", 11), request_for()
    return Store(request.cache, embed(tiles, request).space)


def put(folder: Path, names: tuple[str, ...]) -> dict[Path, bytes]:
    """Write files and return what they hold."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"mine: {name}".encode())
    return {folder / name: f"mine: {name}".encode() for name in names}


def tree(folder: Path) -> dict[str, str]:
    """Return every file and link below a folder, with the hash of what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = f"-> {path.readlink()}"
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.parametrize(
    "verb", [("repair",), ("rm", "--all", "--yes"), ("rm", "--older-than", "0h", "--yes"), ("verify",)]
)
@pytest.mark.parametrize(
    "names",
    [
        ("embeddings/uni/features.npy",),
        ("embeddings/uni/shards/0.npy", "embeddings/uni/shards/0.json", "embeddings/uni/gathered/all.npy"),
        (f"embeddings/{'ab' * 16}/features.npy", f"embeddings/{'ab' * 16}/shards/{'c' * 24}.npy"),
        ("embeddings/uni/space.json", "embeddings/uni/shards/a.npy"),
        ("embeddings/features.npy", "fits/model.safetensors", f"fits/{'0' * 40}.safetensors", "external/paper.json"),
        ("synthetic/breakhis/a.png", "synthetic/pcam/b.h5", "hashes.sqlite", "timm_names.json", "external/a.json"),
    ],
)  # fmt: skip
def test_a_project_is_no_cache(
    histotune: Command, tmp_path: Path, names: tuple[str, ...], verb: tuple[str, ...]
) -> None:
    put(tmp_path / "proj", names)
    before = tree(tmp_path / "proj")
    result = histotune("cache", *verb, "--cache", tmp_path / "proj")
    assert result.code == 0, result.err
    assert tree(tmp_path / "proj") == before


def test_what_lies_in_a_space_and_is_not_the_stores_survives_repair_and_removal(
    tmp_path: Path, request_for: Requests
) -> None:
    store = filled(tmp_path, request_for)
    mine = put(store.folder, FOREIGN)
    check = repair_space(store).check
    assert set(check.foreign) == {name if not name.startswith("extra") else "extra" for name in FOREIGN}
    assert check.debris == ()
    assert {path: path.read_bytes() for path in mine} == mine
    assert len(store.manifests()) == 3
    removal = remove_spaces([store])
    assert removal.n_removed == 1
    assert {path.name for path in removal.foreign} == {Path(name).name for name in FOREIGN} - {"features.npy"} | {
        "features.npy", "extra"}  # fmt: skip
    left = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    assert left == mine
    assert stores(tmp_path / "cache") == ()
    assert take_inventory(tmp_path / "cache").foreign == (store.folder,)


def test_a_space_without_foreign_files_goes_whole(tmp_path: Path, request_for: Requests) -> None:
    store = filled(tmp_path, request_for)
    assert remove_spaces([store]).foreign == ()
    assert not store.folder.exists()


def test_a_shard_that_no_plan_names_is_left(tmp_path: Path, request_for: Requests) -> None:
    store = filled(tmp_path, request_for)
    mine = put(store.folder, (f"shards/{'0' * 24}.npy", f"gathered/{'0' * 24}.npy"))
    repair_space(store)
    assert {path: path.read_bytes() for path in mine} == mine


@pytest.mark.parametrize("place", ["", "shards", "gathered", "damaged"])
def test_no_link_is_followed(tmp_path: Path, request_for: Requests, place: str) -> None:
    """A link to a folder of histotune's own names: the names alone would make its files debris."""
    store = filled(tmp_path, request_for)
    store.write_plan([ShardPlan(("e" * 64,), 2)])
    (planned,) = store.read_plan()
    elsewhere = tmp_path / "elsewhere"
    if (store.folder / place).is_dir():
        shutil.move(store.folder / place, elsewhere)
    elsewhere.mkdir(exist_ok=True)
    put(elsewhere, (f"{planned.name}.npy", f".{'0' * 24}.npy.abcd1234.partial", f"{'1' * 24}.json"))
    (store.folder / place).symlink_to(elsewhere, target_is_directory=True)
    before = tree(elsewhere)
    if place:
        for change in (repair_space, lambda one: remove_spaces([one])):
            with pytest.raises(UserError, match=r"(?s)is a link.*elsewhere"):
                change(store)
    else:
        assert stores(tmp_path / "cache") == ()
        assert take_inventory(tmp_path / "cache").foreign == (store.folder,)
    assert tree(elsewhere) == before


def test_a_linked_folder_of_spaces_is_refused(histotune: Command, tmp_path: Path, request_for: Requests) -> None:
    filled(tmp_path, request_for)
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj" / "embeddings").symlink_to(tmp_path / "cache" / "embeddings", target_is_directory=True)
    before = tree(tmp_path / "cache")
    assert histotune("cache", "ls", "--cache", tmp_path / "proj").code == 0
    for verb in (("repair",), ("rm", "--all", "--yes")):
        result = histotune("cache", *verb, "--cache", tmp_path / "proj")
        assert (result.code, "is a link" in result.err) == (2, True), result.err
    assert tree(tmp_path / "cache") == before


def test_a_linked_file_is_no_file_of_the_space(tmp_path: Path, request_for: Requests) -> None:
    store = filled(tmp_path, request_for)
    (tmp_path / "mine.npy").write_bytes(b"mine")
    linked = store.folder / "shards" / f".{'0' * 24}.npy.abcd1234.partial"
    linked.symlink_to(tmp_path / "mine.npy")
    repair_space(store)
    remove_spaces([store])
    assert linked.is_symlink()
    assert (tmp_path / "mine.npy").read_bytes() == b"mine"


def test_only_solved_fits_are_removed(tmp_path: Path) -> None:
    FitCache.at(tmp_path).recall({"x": np.ones(3)}, {"a": 1}, lambda: {"y": np.ones(2)})
    (kept,) = (tmp_path / "fits").iterdir()
    mine = put(tmp_path / "fits", ("model.safetensors", f"{'0' * 40}.safetensors", f"{kept.stem[:-1]}x.safetensors"))
    assert unused_fits(tmp_path) == (kept,)
    assert remove_rest(tmp_path) == ("fits",)
    assert {path: path.read_bytes() for path in (tmp_path / "fits").iterdir()} == mine


def test_the_room_of_fits_is_made_by_fits_alone(tmp_path: Path) -> None:
    mine = put(tmp_path / "fits", ("model.safetensors", "big.partial", f"{'0' * 39}x.safetensors"))
    cache = FitCache(tmp_path / "fits", max_bytes=600)
    for number in range(4):
        cache.recall({"x": np.ones(3)}, {"a": number}, lambda: {"y": np.ones(2)})
    assert {path: path.read_bytes() for path in mine} == mine


def test_the_cohorts_own_files_go_and_no_others(tmp_path: Path) -> None:
    config = SyntheticConfig(n_groups=4, n_tiles_breakhis=16, n_tiles_pcam=30)
    cohort = tmp_path / "synthetic"
    write_cohort(config, cohort, workers=1)
    assert set(cohort_files(cohort)) == {path for path in cohort.rglob("*") if path.is_file()}
    mine = put(cohort, ("notes.txt", "breakhis/BreaKHis_v1/mine.png", "pcam/mine.h5", "mine/SOB_B_A-14-1-40-001.png"))
    with pytest.raises(UserError, match=r"holds something else|was not rendered"):
        write_cohort(config.model_copy(update={"seed": 1}), cohort, workers=1)
    assert remove_rest(tmp_path) == ("synthetic",)
    assert {path: path.read_bytes() for path in cohort.rglob("*") if path.is_file()} == mine


def test_a_cohort_with_a_file_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    for part in ("breakhis", "pcam"):
        (tmp_path / "cohort" / part).mkdir(parents=True)
        warning = "SYNTHETIC: rendered by a program from random numbers; shows no patient and no real tissue."
        (tmp_path / "cohort" / part / MARK).write_text(json.dumps({"what": warning}), encoding="utf-8")
    mine = put(tmp_path / "cohort", ("breakhis/annotations.csv",))
    with pytest.raises(UserError, match=r"(?s)was not rendered.*annotations\.csv"):
        write_cohort(SyntheticConfig(), tmp_path / "cohort", workers=1)
    assert {path: path.read_bytes() for path in mine} == mine


@pytest.mark.parametrize("name", ["features.npz", "features.parquet"])
def test_an_export_replaces_an_export_and_no_other_file(tmp_path: Path, request_for: Requests, name: str) -> None:
    table = space_table(filled(tmp_path, request_for))
    out = tmp_path / name
    assert (export(table, out), export(table, out)) == (1, 1)
    for foreign in (b"mine", b""):
        out.write_bytes(foreign)
        with pytest.raises(UserError, match="did not export"):
            export(table, out)
        assert out.read_bytes() == foreign
    np.savez(tmp_path / "features.npz", features=np.ones(3), allow_pickle=False)
    with pytest.raises(UserError, match="did not export"):
        export(table, tmp_path / "features.npz")


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (("run", "tiles"), ("config.json", "model.safetensors")),
        (("run", "tiles"), ("notes.txt",)),
        (("sweep", "tiles"), ("bundle.json", "thesis.docx")),
        (("matrix", "breakhis"), ("config.json", "preprocessor_config.json")),
    ],
)
def test_a_result_never_replaces_a_folder_with_other_files(
    histotune: Command, tmp_path: Path, command: tuple[str, ...], names: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    put(out, names)
    (out / names[0]).write_text(json.dumps({"model_type": "dinov2"}), encoding="utf-8")
    before = tree(out)
    result = histotune(*command, "--data", tmp_path, "--out", out)
    assert (result.code, "holds other files" in result.err) == (2, True), result.err
    assert tree(out) == before
