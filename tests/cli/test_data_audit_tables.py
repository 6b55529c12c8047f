"""`histotune data audit` of tables, parquet files and Python readers: pixels are looked at as in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import CommandResult

Histotune = Callable[..., CommandResult]
READER = """
from histotune.datasets.dataset_spec import DatasetSpec
from histotune.datasets.rows import Tile

SPEC = DatasetSpec(name="mine", title="My tiles", licence="CC0", citation="Me.")


def read(config):
    folder = config.path if config.path.is_dir() else config.path.parent
    for path in sorted(folder.rglob("*.png")):
        yield Tile(path, label=path.parent.name, group=path.stem)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return class folders of 8 tiles: one lies in both classes, and one is cut off."""
    rng = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    (tmp_path / "data" / "b" / "1.png").write_bytes((tmp_path / "data" / "a" / "0.png").read_bytes())
    whole = (tmp_path / "data" / "a" / "6.png").read_bytes()
    (tmp_path / "data" / "a" / "6.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path / "data"


def table_of(folder: Path, name: str) -> Path:
    paths = sorted(folder.rglob("*.png"))
    rows = pl.DataFrame(
        {"path": [str(path.relative_to(folder)) for path in paths], "label": [path.parent.name for path in paths]}
    )
    if name.endswith(".parquet"):
        rows.write_parquet(folder / name)
    else:
        rows.write_csv(folder / name, separator="\t" if name.endswith(".tsv") else ",")
    return folder / name


def findings(out: Path) -> dict[str, tuple[str, str]]:
    """Return verdict and sentence of every finding."""
    found = json.loads((out / "audit.json").read_text(encoding="utf-8"))["findings"]
    return {one["id"]: (one["verdict"], one["sentence"]) for one in found}


@pytest.mark.parametrize("name", ["tiles.csv", "tiles.tsv", "tiles.parquet"])
def test_a_table_is_audited_like_its_folder(histotune: Histotune, folder: Path, tmp_path: Path, name: str) -> None:
    assert histotune("data", "audit", "tiles", "--data", folder, "--out", tmp_path / "f").code == 1
    result = histotune("data", "audit", "tiles", "--data", table_of(folder, name), "--out", tmp_path / "t")
    assert result.code == 1, result.err
    assert "error:" not in result.err
    expected, found = findings(tmp_path / "f"), findings(tmp_path / "t")
    assert found == expected
    assert found["unreadable"][0] == "error" and found["exact-duplicates"][0] != "ok"


def test_a_python_reader_of_a_folder_or_a_file_is_audited_beside_itself(
    histotune: Histotune, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code" / "mine.py"
    code.parent.mkdir()
    code.write_text(READER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for data in (folder, table_of(folder, "tiles.csv")):
        assert histotune("data", "audit", code, "--data", data).code == 1
        assert findings(tmp_path / "audits" / "mine")["exact-duplicates"][0] != "ok"
    assert code.read_text(encoding="utf-8") == READER


def test_a_parquet_file_of_images_is_audited(histotune: Histotune, folder: Path, tmp_path: Path) -> None:
    paths = sorted(folder.rglob("*.png"))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    file = tmp_path / "images.parquet"
    pq.write_table(pa.table({"image": images, "label": [path.parent.name for path in paths]}), file)
    result = histotune("data", "audit", "tiles", "--data", file, "--out", tmp_path / "a")
    assert result.code == 1, result.err
    found = findings(tmp_path / "a")
    assert found["unreadable"][0] == "error" and found["exact-duplicates"][0] != "ok"
    described = histotune("data", "describe", "tiles", "--data", file)
    assert described.code == 0, described.err
    assert "8 tiles" in described.out


def test_a_quick_audit_of_a_table_reads_no_pixel(histotune: Histotune, folder: Path, tmp_path: Path) -> None:
    table = table_of(folder, "tiles.csv")
    assert histotune("data", "audit", "tiles", "--data", table, "--out", tmp_path / "q", "--quick").code == 0
    assert "unreadable" not in findings(tmp_path / "q")
