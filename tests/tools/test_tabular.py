"""One reader of tables: it reads the file that is named, whatever marks the name holds, and there is no other."""

from __future__ import annotations

import ast
import gzip
from pathlib import Path

import polars as pl
import pytest

from histotune.tools.tabular import (
    TableError,
    as_pattern,
    parquet_file,
    read_csv,
    read_parquet,
    write_csv,
    write_parquet,
)

PACKAGE = Path(__file__).parents[2] / "src" / "histotune"
READER = PACKAGE / "tools" / "tabular.py"
TYPED = PACKAGE / "datasets" / "unlabelled.py"  # where a word of the command line may be a pattern
ALONE = PACKAGE / "report" / "recompute.py"  # a program of its own, which may use nothing of histotune
SOURCES = sorted(PACKAGE.rglob("*.py"))
DECOYS = {
    "set[1]": ("set1",),
    "set[!a]": ("setb", "set!"),
    "s?t": ("set", "sat"),
    "s*": ("set", "s", "s1"),
    "{a,b}": ("a", "b"),
    "**": ("set",),
    "a[0-9]b": ("a0b", "a5b"),
    "[": ("set",),
    "k=v": ("set",),
}
"""Names that would be patterns, and what these would match."""


@pytest.fixture(params=list(DECOYS))
def places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[Path]]:
    """Return a folder whose name would be a pattern, and its neighbours that this would match."""
    folders = [tmp_path / name for name in (request.param, *DECOYS[request.param])]
    for folder in folders:
        folder.mkdir()
    return folders[0], folders[1:]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize("stem", ["tiles", "t[1]", "t?", "t*", "{t}"])
def test_a_csv_file_is_itself_and_no_neighbour(places: tuple[Path, list[Path]], suffix: str, stem: str) -> None:
    named, neighbours = places
    for folder in neighbours:
        for name in (stem, "t", "t1", "tt"):
            (folder / f"{name}{suffix}").write_bytes(_packed(b"a\nneighbour\n", suffix))
    with pytest.raises(TableError):
        read_csv(named / f"{stem}{suffix}")
    (named / f"{stem}{suffix}").write_bytes(_packed(b"a\nitself\n", suffix))
    assert read_csv(named / f"{stem}{suffix}")["a"].to_list() == ["itself"]


@pytest.mark.parametrize("stem", ["tiles", "t[1]", "t?", "t*", "{t}"])
def test_a_parquet_file_is_itself_and_no_neighbour(places: tuple[Path, list[Path]], stem: str) -> None:
    named, neighbours = places
    for folder in neighbours:
        for name in (stem, "t", "t1", "tt"):
            write_parquet(pl.DataFrame({"a": ["neighbour"]}), folder / f"{name}.parquet")
    with pytest.raises(TableError):
        read_parquet(named / f"{stem}.parquet")
    write_parquet(pl.DataFrame({"a": ["itself"]}), named / f"{stem}.parquet")
    assert read_parquet(named / f"{stem}.parquet")["a"].to_list() == ["itself"]
    assert read_parquet(named / f"{stem}.parquet").columns == ["a"]  # a folder k=v adds no column
    with parquet_file(named / f"{stem}.parquet") as file:
        assert file.read()["a"].to_pylist() == ["itself"]


def test_a_pattern_made_of_a_path_matches_it_alone(places: tuple[Path, list[Path]]) -> None:
    for folder in (places[0], *places[1]):
        write_parquet(pl.DataFrame({"a": [folder.name]}), folder / "t.parquet")
    found = pl.scan_parquet(f"{as_pattern(places[0])}/*.parquet").collect()
    assert found["a"].to_list() == [places[0].name]


def test_a_table_is_written_where_it_is_named(places: tuple[Path, list[Path]]) -> None:
    named, neighbours = places
    write_csv(pl.DataFrame({"a": [1]}), named / "t*.csv")
    assert [path.name for path in named.iterdir()] == ["t*.csv"]
    assert all(not list(folder.iterdir()) for folder in neighbours)


def test_a_name_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)
    write_parquet(pl.DataFrame({"a": ["itself"]}), tmp_path / "s3:" / "bucket" / "t.parquet")
    with parquet_file("s3://bucket/t.parquet") as file:
        assert file.read()["a"].to_pylist() == ["itself"]


def _packed(data: bytes, suffix: str) -> bytes:
    return gzip.compress(data) if suffix.endswith(".gz") else data


# ---- No other reader ----


READERS = {
    *(f"{verb}_{kind}" for verb in ("read", "scan") for kind in
      ("csv", "parquet", "ipc", "ipc_stream", "ndjson", "avro", "excel", "delta", "iceberg", "feather", "orc", "table",
       "fwf", "hdf", "pickle", "dataset")),
    *("ParquetFile", "ParquetDataset", "read_schema", "read_metadata", "read_csv_batched", "genfromtxt", "loadtxt"),
}  # fmt: skip
"""What polars, pyarrow, pandas and NumPy read tables with."""
MODULES = {"glob", "fnmatch", "pandas", "pyarrow.csv", "pyarrow.dataset", "pyarrow.feather", "fastparquet", "duckdb"}


def other_readers(tree: ast.AST) -> list[str]:
    """Return what a file reads tables with, other than by the one reader."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in READERS:
            found.append(node.attr)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("histotune"):
            found += [one.name for one in node.names if one.name in READERS or f"{node.module}.{one.name}" in MODULES]
            found += [str(node.module)] if node.module in MODULES else []
        elif isinstance(node, ast.Import):
            found += [one.name for one in node.names if one.name in MODULES]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_file_reads_tables_but_the_reader(path: Path) -> None:
    found = other_readers(ast.parse(path.read_text(encoding="utf-8")))
    own = {READER: ["ParquetFile", "read_csv"], ALONE: ["read_table"], TYPED: ["glob"]}
    assert sorted(found) == own.get(path, [])


@pytest.mark.parametrize(
    "text",
    [
        "import polars as pl\npl.read_parquet(p)",
        "import polars as p\nq = p.scan_csv",
        "from polars import read_csv",
        "from glob import glob",
        "import pandas as pd",
        "import pyarrow.parquet as pq\npq.read_table(p)",
        "import pyarrow.parquet as pq\npq.ParquetFile(p)",
        "from pyarrow import dataset",
        "import numpy as np\nnp.genfromtxt(p)",
    ],
)
def test_another_reader_would_be_found(text: str) -> None:
    assert other_readers(ast.parse(text))


def odd_patterns(tree: ast.AST) -> list[str]:
    """Return the patterns of ``glob`` and ``rglob`` that may hold a name of the user's as it is."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    patterns = [call.args[0] for call in calls if call.func.attr in ("glob", "rglob") and call.args]  # type: ignore[attr-defined]
    return [ast.unparse(pattern) for pattern in patterns if not _is_constant(pattern)]


def _is_constant(pattern: ast.expr) -> bool:
    if isinstance(pattern, ast.JoinedStr):
        inside = [part.value for part in pattern.values if isinstance(part, ast.FormattedValue)]
        return all(isinstance(one, ast.Name) and one.id.isupper() for one in inside)
    return isinstance(pattern, ast.Constant)


LOOPS = {
    "report/run_folder.py": "ADDED_FILES",
    "embeddings/upkeep.py": '"*.safetensors"',
    "datasets/unlabelled.py": "if os.path.lexists(pattern):\n        return [Path(pattern)]",
}
"""Where the pattern is a variable: that of a loop, and what the loop goes over; or a word of the command line, which is
looked up as a name first: the one place where users may write patterns."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_name_of_the_users_becomes_a_pattern(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(PACKAGE).as_posix()
    assert odd_patterns(ast.parse(text)) == (["pattern"] if name in LOOPS else [])
    assert LOOPS.get(name, "") in text


@pytest.mark.parametrize("text", ["folder.glob(name)", "folder.rglob(f'{name}*')", "folder.glob('*' + name)"])
def test_a_pattern_with_a_name_in_it_would_be_found(text: str) -> None:
    assert odd_patterns(ast.parse(text))
