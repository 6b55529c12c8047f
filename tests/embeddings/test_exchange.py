"""Out of the store and into it: every format is read as other programs read it, and comes back row by row."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from histotune.backbones.catalog import external_names, find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.datasets.tileset import TileSet
from histotune.embeddings.embed import embed
from histotune.embeddings.estimate import tile_contents
from histotune.embeddings.exchange import (
    ExportTable,
    export,
    file_stem,
    foreign_files,
    read_foreign,
    read_places,
    space_table,
    tile_table_of,
)
from histotune.embeddings.importing import ImportReport, ImportRequest, KnownTiles, import_embeddings
from histotune.embeddings.space import Embeddings, EmbedRequest
from histotune.embeddings.store import Store
from histotune.images.config import LoaderConfig
from histotune.tools.errors import UserError
from tests.embeddings.conftest import write_tiles

Requests = Callable[..., EmbedRequest]
SLIDES = ("s 1", "s 1", "s 1", "s/2", "s/2", "s/2", "s3")


@pytest.fixture
def tiles(tmp_path: Path) -> TileSet:
    """Return seven tiles of three slides, 40X."""
    found = write_tiles(tmp_path / "tiles", 7)
    table = found.table.with_columns(
        pl.Series("slide_id", SLIDES), pl.Series("group_id", SLIDES), pl.lit("40X").alias("magnification"),
        pl.lit(32, pl.Int32).alias("width_px"), pl.lit(32, pl.Int32).alias("height_px"), pl.lit(0.25).alias("mpp"),
    )  # fmt: skip
    return replace(found, table=table)


@pytest.fixture
def embeddings(tiles: TileSet, request_for: Requests) -> Embeddings:
    return embed(tiles, request_for())


@pytest.fixture
def table(tiles: TileSet, embeddings: Embeddings, tmp_path: Path) -> ExportTable:
    content = tile_contents(tiles, tmp_path / "cache", LoaderConfig())
    return tile_table_of(Store(tmp_path / "cache", embeddings.space), tiles, content)


def bring_in(tmp_path: Path, paths: list[Path], tiles: TileSet | None = None, **settings: object) -> ImportReport:
    known = [] if tiles is None else [KnownTiles(tiles, tile_contents(tiles, tmp_path / "c2", LoaderConfig()))]
    return import_embeddings(ImportRequest(tuple(paths), "mine", tmp_path / "c2", **settings), known)  # type: ignore[arg-type]


def read_back(tmp_path: Path, tiles: TileSet, request: EmbedRequest) -> Embeddings:
    spec = find_backbone(BackboneConfig(name="external:mine"), tmp_path / "c2")
    return embed(tiles, replace(request, spec=spec, cache=tmp_path / "c2"))


def plain_npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_npz_is_read_without_pickle(table: ExportTable, embeddings: Embeddings, tiles: TileSet, tmp_path: Path) -> None:
    export(table, tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as file:
        assert np.array_equal(file["features"], embeddings.matrix_ND) and file["features"].dtype == np.float32
        assert file["tile_id"].tolist() == list(tiles.tile_ids)
        assert [one.decode() for one in file["content"]] == list(table.content)
        assert file["label"].tolist() == tiles.labels_N.tolist()
        assert file["group"].tolist() == list(SLIDES)


def test_parquet_is_an_array_column_for_polars(
    table: ExportTable, embeddings: Embeddings, tiles: TileSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histotune.embeddings.exchange.ROWS_PER_GROUP", 3)
    export(table, tmp_path / "e.parquet")
    frame = pl.read_parquet(tmp_path / "e.parquet")
    assert frame.schema["embedding"] == pl.Array(pl.Float32, 96)
    assert np.array_equal(frame["embedding"].to_numpy(), embeddings.matrix_ND)
    assert frame["tile_id"].to_list() == list(tiles.tile_ids)
    assert pq.ParquetFile(tmp_path / "e.parquet").num_row_groups == 3
    assert embeddings.space.key.encode() in pq.read_schema(tmp_path / "e.parquet").metadata[b"histotune"]


def test_hdf5_is_read_as_clam_and_trident_read_it(table: ExportTable, embeddings: Embeddings, tmp_path: Path) -> None:
    folder = tmp_path / "h5_files"
    assert export(table, folder) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["s3.h5", "s_1.h5", "s_2.h5"]
    with h5py.File(folder / "s_1.h5", "r") as hdf5_file:  # CLAM, dataset_modules/dataset_generic.py
        features, coords = hdf5_file["features"][:], hdf5_file["coords"][:]
    assert np.array_equal(features, embeddings.matrix_ND[:3]) and features.dtype == np.float32
    assert coords.tolist() == [[-1, -1]] * 3
    with h5py.File(folder / "s_1.h5", "a") as file:  # CLAM, utils/file_utils.py appends by resizing
        file["features"].resize(4, axis=0)
        assert file["features"].chunks == (1, 96)
        attributes = dict(file["coords"].attrs)  # TRIDENT, trident/IO.py read_coords
        assert file["features"].attrs["encoder"] == "colour-histogram"
    assert attributes["name"] == "s_1" and attributes["histotune_coords"].startswith("unknown")
    assert (attributes["patch_size"], attributes["level0_magnification"], attributes["mpp"]) == (32, 40, 0.25)
    assert "patch_size_level0" not in attributes  # so that encoders of positions stop instead of using -1


def test_a_file_of_hdf5_holds_one_slide(table: ExportTable, tiles: TileSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one slide, and these tiles come from 3"):
        export(table, tmp_path / "all.h5")
    one = replace(table, tiles=tiles.take(np.array([6])), features_ND=table.features_ND[6:], content=table.content[6:])
    assert export(one, tmp_path / "s3.h5") == 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="holds other files"):
        export(table, tmp_path / "full")
    with pytest.raises(UserError, match="unknown kind"):
        export(table, tmp_path / "x.csv")


def test_a_space_alone_knows_contents_only(embeddings: Embeddings, tmp_path: Path, tiles: TileSet) -> None:
    table = space_table(Store(tmp_path / "cache", embeddings.space))
    export(table, tmp_path / "e.npz")
    rows = read_foreign(tmp_path / "e.npz")
    assert list(rows.content) == sorted(tile_contents(tiles, tmp_path / "cache", LoaderConfig()))
    with pytest.raises(UserError, match="knows no slides"):
        export(table, tmp_path / "slides")


@pytest.mark.parametrize("out", ["e.npz", "e.parquet", "slides"])
def test_every_format_comes_back(
    table: ExportTable, embeddings: Embeddings, tiles: TileSet, tmp_path: Path, request_for: Requests, out: str
) -> None:
    export(table, tmp_path / out)
    report = bring_in(tmp_path, [tmp_path / out])  # their content hashes say whose they are
    assert (report.n_rows, report.n_used, report.n_new, report.without_row) == (7, 7, 7, ())
    assert report.record.claimed == "colour-histogram"
    back = read_back(tmp_path, tiles, request_for())
    assert back.matrix_ND.tobytes() == embeddings.matrix_ND.tobytes()
    assert (back.provenance, back.n_computed, back.blocks) == ("external, unverified", 0, embeddings.blocks)
    assert "unverified" in back.notes[0]
    assert bring_in(tmp_path, [tmp_path / out]).n_new == 0


def test_trident_features_are_found_by_slide_and_coordinates(
    tiles: TileSet, tmp_path: Path, request_for: Requests
) -> None:
    rng, folder = np.random.default_rng(0), tmp_path / "features_uni_v1"
    folder.mkdir()
    places, vectors = {}, {}
    lines = ["tile_id,x,y"]
    for slide in dict.fromkeys(SLIDES):
        ids = [tile_id for tile_id, one in zip(tiles.tile_ids, SLIDES, strict=True) if one == slide]
        coords = np.array([[512 * number, 256] for number in range(len(ids) + 1)])  # one more than there are tiles
        features = rng.normal(size=(len(coords), 5)).astype(np.float16)
        for number, tile_id in enumerate(ids):
            places[tile_id], vectors[tile_id] = (512 * number, 256), features[number]
            lines.append(f"{tile_id},{512 * number},256")
        with h5py.File(folder / f"{file_stem(slide)}.h5", "w") as file:  # as trident/IO.py save_h5 writes it
            file.create_dataset("features", data=features, maxshape=(None, 5), chunks=(1, 5))
            file["coords"] = coords
            file["coords"].attrs["patch_size"] = 256
    (tmp_path / "places.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_places(tmp_path / "places.csv") == places
    report = bring_in(tmp_path, [folder], tiles, places=places, claimed="UNI")
    assert (report.n_rows, report.n_used, report.record.claimed) == (10, 7, "UNI")
    back = read_back(tmp_path, tiles, request_for())
    assert np.array_equal(back.matrix_ND, np.stack([vectors[tile_id] for tile_id in tiles.tile_ids]).astype(np.float32))
    with pytest.raises(UserError, match=r"(?s)no row of these files belongs.*--coords"):
        bring_in(tmp_path, [folder], tiles, replace=True)


def test_tiles_without_a_row_are_listed_and_stop_a_run(tiles: TileSet, tmp_path: Path, request_for: Requests) -> None:
    path = plain_npz(tmp_path / "e.npz", features=np.ones((3, 4), np.float32), tile_id=np.array(tiles.tile_ids[2:5]))
    report = bring_in(tmp_path, [path], tiles)
    assert report.without_row == (*tiles.tile_ids[:2], *tiles.tile_ids[5:])
    with pytest.raises(UserError, match=f"(?s)4 of 7 tiles have no row.*{tiles.tile_ids[0]}"):
        read_back(tmp_path, tiles, request_for())
    assert len(read_back(tmp_path, tiles.take(np.array([2, 3, 4])), request_for())) == 3


def test_an_image_that_has_changed_since_has_no_row(table: ExportTable, tiles: TileSet, tmp_path: Path) -> None:
    export(table, tmp_path / "e.npz")
    changed = Path(tiles.table["path"][0])
    changed.write_bytes(changed.read_bytes() + b" ")
    assert bring_in(tmp_path, [tmp_path / "e.npz"], tiles).without_row == (tiles.tile_ids[0],)


def test_a_name_belongs_to_its_files(tiles: TileSet, tmp_path: Path, request_for: Requests) -> None:
    ids = np.array(tiles.tile_ids)
    first = plain_npz(tmp_path / "a.npz", features=np.zeros((7, 2), np.float32), tile_id=ids)
    second = plain_npz(tmp_path / "b.npz", features=np.ones((7, 2), np.float32), tile_id=ids)
    one = bring_in(tmp_path, [first], tiles)
    with pytest.raises(UserError, match="other files"):
        bring_in(tmp_path, [second], tiles)
    two = bring_in(tmp_path, [second], tiles, replace=True)
    assert one.store.space.key != two.store.space.key
    assert read_back(tmp_path, tiles, request_for()).matrix_ND.min() == 1
    (tmp_path / "c.npz").write_bytes(first.read_bytes())
    assert bring_in(tmp_path, [tmp_path / "c.npz"], tiles, replace=True).store.space.key == one.store.space.key
    assert external_names(tmp_path / "c2") == ["mine"]
    with pytest.raises(UserError, match=r"(?s)no embeddings were imported.*mine"):
        find_backbone(BackboneConfig(name="external:yours"), tmp_path / "c2")


GOOD = np.ones((7, 2), np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": GOOD, "tile_id": np.array(["a"])}, "counts differ: 7 rows of features, 1 tile_id"),
        ({"features": GOOD, "coords": np.ones((7, 3))}, r"coords has shape \(7, 3\)"),
        ({"features": np.ones(7)}, r"float64 \(7,\)"),
        ({"features": np.ones((7, 2), int)}, "int64"),
        ({"features": GOOD * np.nan}, "7 rows hold values that are not finite"),
        ({"features": np.where(np.eye(7, 2), np.nan, GOOD)}, "2 rows hold values that are not finite"),
        ({"features": GOOD, "content": np.array(["x"] * 7)}, "something else than SHA-256"),
        ({"coords": np.ones((7, 2))}, "holds no embeddings"),
        ({"features": np.array([[{}]], dtype=object)}, "can't be read"),
    ],
)
def test_odd_files_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_foreign(plain_npz(tmp_path / "e.npz", **arrays))


def test_mistakes_of_several_files_come_together(tiles: TileSet, tmp_path: Path) -> None:
    plain_npz(tmp_path / "a.npz", features=np.ones(3))
    (tmp_path / "b.h5").write_bytes(b"no hdf5")
    (tmp_path / "c.npz").write_bytes(pickle.dumps({"features": 1}))
    with pytest.raises(UserError, match=r"(?s)a\.npz.*b\.h5.*c\.npz"):
        bring_in(tmp_path, [tmp_path / name for name in ("a.npz", "b.h5", "c.npz")], tiles)
    assert not (tmp_path / "c2" / "embeddings").exists()


def test_networks_do_not_mix(tiles: TileSet, tmp_path: Path) -> None:
    ids = np.array(tiles.tile_ids)
    a = plain_npz(tmp_path / "a.npz", features=np.ones((7, 2), np.float32), tile_id=ids)
    b = plain_npz(tmp_path / "b.npz", features=np.ones((7, 3), np.float32), tile_id=ids)
    with pytest.raises(UserError, match=r"(?s)differ in their columns.*a\.npz: 2, b\.npz: 3"):
        bring_in(tmp_path, [a, b], tiles)
    c = plain_npz(tmp_path / "c.npz", features=np.zeros((7, 2), np.float32), tile_id=ids)
    with pytest.raises(UserError, match="two different rows"):
        bring_in(tmp_path, [a, c], tiles)


def test_links_inside_hdf5_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["features"] = GOOD
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["features"] = h5py.ExternalLink("secret.h5", "features")
    with pytest.raises(UserError, match="link to elsewhere"):
        read_foreign(tmp_path / "e.h5")


def test_vectors_of_different_length_are_refused(tmp_path: Path) -> None:
    table = pa.table({"embedding": pa.array([[1.0, 2.0], [1.0]], pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "e.parquet")
    with pytest.raises(UserError, match="differ in length"):
        read_foreign(tmp_path / "e.parquet")
    even = pa.table({"embedding": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64())), "tile_id": ["a", "b"]})
    pq.write_table(even, tmp_path / "f.parquet")
    assert read_foreign(tmp_path / "f.parquet").features_ND.tolist() == [[1, 2], [3, 4]]


def test_nothing_to_import(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no embeddings to import"):
        foreign_files([tmp_path])
    with pytest.raises(UserError, match="coordinates can't be read"):
        read_places(tmp_path / "none.csv")
    path = plain_npz(tmp_path / "e.npz", features=GOOD)
    with pytest.raises(UserError, match=r"(?s)do not say which bytes.*--dataset"):
        bring_in(tmp_path, [path])
    with pytest.raises(UserError, match="no name for imported"):
        import_embeddings(ImportRequest((path,), "../x", tmp_path / "c2"), [])
