"""The cache commands end to end: list, check, mend, remove, export, import, and a run on what was imported."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from histotune.tools.files import lock
from tests.conftest import CommandResult

Command = Callable[..., CommandResult]
HISTOGRAM = ("--backbone", "colour-histogram")


@pytest.fixture
def embedded(histotune: Command, breakhis: Path, tmp_path: Path) -> Path:
    """Return a cache that holds the colour histograms of a small BreakHis tree."""
    for path in breakhis.rglob("*.png"):
        os.utime(path, (1e9, 1e9))  # settled, so that content hashes are remembered
    done = histotune("embed", "breakhis", "--data", breakhis, *HISTOGRAM, "--cache", tmp_path / "cache",
                     "--set", "embedding.shard_tiles=20")  # fmt: skip
    assert done.code == 0, done.err
    return tmp_path / "cache"


def shards(cache: Path) -> list[Path]:
    return sorted(cache.glob("embeddings/*/shards/*.npy"))


def test_list_names_spaces_and_sizes(histotune: Command, embedded: Path, tmp_path: Path) -> None:
    done = histotune("cache", "ls", "--cache", embedded)
    assert done.code == 0, done.err
    (line,) = [line for line in done.out.splitlines() if "colour-histogram" in line]
    (folder,) = (embedded / "embeddings").iterdir()
    assert line.startswith(folder.name[:12])
    assert "short-side-crop 224 px, bicubic" in line and " 72 " in line and "fp32" in line and "any" in line
    assert time.strftime("%Y-%m-%d") in line
    assert "hashes.sqlite: " in done.out and "in all" in done.out
    assert "nothing is cached" in histotune("cache", "ls", "--cache", tmp_path / "none").out


def test_verify_fails_on_a_flipped_byte_and_names_the_command_that_mends_it(
    histotune: Command, embedded: Path, breakhis: Path
) -> None:
    assert histotune("cache", "verify", "--cache", embedded).code == 0
    victim = shards(embedded)[0]
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(bytes(data))
    broken = histotune("cache", "verify", "colour-histogram", "--cache", embedded)
    assert broken.code == 1
    name = victim.parents[1].name[:12]
    assert f"repair with: histotune cache repair {name}" in broken.out
    assert victim.is_file()  # verify changes nothing
    mended = histotune("cache", "repair", name, "--cache", embedded)
    assert mended.code == 0
    n_rows = len(np.load(victim.parents[1] / "damaged" / victim.name))
    assert f"{n_rows} rows are lost; the next run that needs them computes them again" in mended.out
    assert histotune("cache", "verify", "--cache", embedded).code == 0
    again = histotune("embed", "breakhis", "--data", breakhis, *HISTOGRAM, "--cache", embedded)
    assert f"{n_rows} computed, {72 - n_rows} from the cache" in again.out


@pytest.mark.parametrize("place", ["first byte", "table's name", "an entry", "cut off"])
def test_a_damaged_index_of_content_hashes_is_found_and_repaired(
    histotune: Command, embedded: Path, breakhis: Path, place: str
) -> None:
    index = embedded / "hashes.sqlite"
    data = bytearray(index.read_bytes())
    at = {"first byte": 0, "table's name": data.find(b"TABLE content") + 7, "an entry": data.find(b".png")}
    if place == "cut off":
        del data[len(data) // 2 :]
    else:
        data[at[place]] ^= 1
    index.write_bytes(bytes(data))
    found = histotune("cache", "verify", "--cache", embedded)
    assert found.code == 1
    assert "hashes.sqlite, the index of content hashes, is damaged: " in found.out
    (advice,) = [line for line in found.out.splitlines() if line.startswith("repair with: histotune ")]
    (embedded / "hashes.sqlite-journal").write_bytes(b"")
    mended = histotune(*shlex.split(advice.partition("histotune ")[2]))
    assert mended.code == 0
    assert "hashes.sqlite: damaged" in mended.out
    assert not list(embedded.glob("hashes.sqlite*"))
    assert histotune("cache", "verify", "--cache", embedded).code == 0
    again = histotune("embed", "breakhis", "--data", breakhis, *HISTOGRAM, "--cache", embedded)
    assert "0 computed" in again.out
    assert index.is_file()


def test_a_damaged_index_is_shown_and_goes_with_the_whole_cache(histotune: Command, embedded: Path) -> None:
    (embedded / "hashes.sqlite").write_bytes(b"\0" * 5000)
    (embedded / "hashes.sqlite-wal").write_bytes(b"")
    assert "hashes.sqlite: 0 (damaged" in histotune("cache", "ls", "--cache", embedded).out
    assert "hashes.sqlite" in histotune("cache", "rm", "--all", "--yes", "--cache", embedded).out
    assert not list(embedded.glob("hashes.sqlite*"))


def test_remove_asks_keeps_what_is_held_and_knows_age(histotune: Command, embedded: Path) -> None:
    (folder,) = (embedded / "embeddings").iterdir()
    name = folder.name[:12]
    nobody = histotune("cache", "rm", name, "--cache", embedded)
    assert nobody.code == 2 and "--yes" in nobody.err and folder.is_dir()
    assert histotune("cache", "rm", "--cache", embedded).code == 2
    with lock(folder / "lock"):
        held = histotune("cache", "rm", name, "--yes", "--cache", embedded)
        assert "in use" in histotune("cache", "ls", "--cache", embedded).out
    assert held.code == 2 and "running process" in held.err
    assert len(shards(embedded)) == 4
    young = histotune("cache", "rm", "--older-than", "30d", "--yes", "--cache", embedded)
    assert "nothing to remove" in young.out
    for path in (folder / "space.json", folder / "shards"):
        os.utime(path, (1e9, 1e9))
    assert "removed 1 spaces" in histotune("cache", "rm", "--older-than", "30d", "--yes", "--cache", embedded).out
    assert not folder.exists()
    assert (embedded / "hashes.sqlite").is_file()
    assert "hashes.sqlite" in histotune("cache", "rm", "--all", "--yes", "--cache", embedded).out
    assert not (embedded / "hashes.sqlite").exists()


def test_unknown_names_and_ages_are_mistakes(histotune: Command, embedded: Path) -> None:
    wrong = histotune("cache", "verify", "color-histogram", "--cache", embedded)
    assert wrong.code == 2 and "did you mean: colour-histogram?" in wrong.err
    assert histotune("cache", "rm", "--older-than", "soon", "--yes", "--cache", embedded).code == 2
    assert histotune("cache", "rm", "--all", "--older-than", "1d", "--cache", embedded).code == 2
    assert histotune("cache", "export", "--out", "x.npz", "--cache", embedded).code == 2


def test_exported_embeddings_come_back_as_external_ones(
    histotune: Command, embedded: Path, breakhis: Path, tmp_path: Path
) -> None:
    out, cache = tmp_path / "slides", ("--cache", embedded)
    data = ("--dataset", "breakhis", "--data", breakhis)
    exported = histotune("cache", "export", *data, *HISTOGRAM, "--out", out, *cache)
    assert exported.code == 0, exported.err
    assert "72 rows of 96 columns (colour-histogram) in 12 files" in exported.out
    assert "coords are -1" in exported.out
    imported = histotune("cache", "import", out, "--as", "mine", *data, *cache)
    assert imported.code == 0, imported.err
    assert "72 of 72 rows from 12 files belong to tiles, 72 are new" in imported.out
    run = histotune("run", "breakhis", "--data", breakhis, "--train-magnification", "100X", "--backbone",
                    "external:mine", *cache, "--out", tmp_path / "run", "--set", "sweep.folds=3",
                    "--set", "evaluation.outer_folds=3")  # fmt: skip
    assert run.code == 0, run.err
    scores = json.loads((tmp_path / "run/scores.json").read_text(encoding="utf-8"))
    rows = [row for finding in scores["findings"] for row in finding["rows"]]
    assert rows and all("EXTERNAL" in row["marks"] for row in rows)
    assert "random-weight backbone + probe" not in {row["arm"] for row in rows}
    assert any("unverified" in note and "no random-weight floor" in note for note in scores["datasets"][0]["notes"])
    assert all(row["input_mpp"] is None for row in rows if row["arm"] == "probe")
    provenance = json.loads((tmp_path / "run/provenance.json").read_text(encoding="utf-8"))
    assert provenance["embeddings"][0]["provenance"] == "external, unverified"
    assert "EXTERNAL" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    scored = histotune("evaluate", tmp_path / "run", "breakhis", "--data", breakhis, *cache)
    assert scored.code == 0 and "EXTERNAL" in scored.out, scored.err
    new = tmp_path / "new.png"
    new.write_bytes((tmp_path / "breakhis").rglob("*.png").__next__().read_bytes() + b" ")
    refused = histotune("predict", tmp_path / "run", new, *cache)
    assert refused.code == 2 and "whose network is not here" in refused.err


def test_imported_and_computed_histograms_give_the_same_numbers(
    histotune: Command, embedded: Path, breakhis: Path, tmp_path: Path
) -> None:
    data, cache = ("--data", breakhis), ("--cache", embedded)
    histotune("cache", "export", "--dataset", "breakhis", *data, *HISTOGRAM, "--out", tmp_path / "x.npz", *cache)
    assert histotune("cache", "import", tmp_path / "x.npz", "--as", "x", *cache).code == 0  # content says enough
    trials = []
    for number, backbone in enumerate(("colour-histogram", "external:x")):
        head = tmp_path / f"head{number}"
        done = histotune("sweep", "breakhis", *data, "--train-magnification", "100X", "--backbone", backbone, "--out",
                         head, *cache, "--set", "sweep.folds=3")  # fmt: skip
        assert done.code == 0, done.err
        trials.append(pl.read_parquet(head / "trials.parquet")["log_loss"].to_list())
    assert trials[0] == trials[1]


def test_export_never_computes(histotune: Command, breakhis: Path, tmp_path: Path) -> None:
    done = histotune("cache", "export", "--dataset", "breakhis", "--data", breakhis, *HISTOGRAM, "--out",
                     tmp_path / "x.npz", "--cache", tmp_path / "empty")  # fmt: skip
    assert done.code == 2 and "72 of 72 tiles have no embedding" in done.err
    assert not (tmp_path / "x.npz").exists()


def test_solved_fits_are_listed_and_removed(histotune: Command, embedded: Path, breakhis: Path, tmp_path: Path) -> None:
    swept = histotune("sweep", "breakhis", "--data", breakhis, *HISTOGRAM, "--cache", embedded, "--out",
                      tmp_path / "head", "--set", "sweep.folds=3", "--set", "sweep.penalties=[0.1,1]")  # fmt: skip
    assert swept.code == 0, swept.err
    assert "fits: 2 (solved fits of sweeps, 67.1 MB at most)" in histotune("cache", "ls", "--cache", embedded).out
    assert "nothing to remove" in histotune("cache", "rm", "--older-than", "1h", "--yes", "--cache", embedded).out
    nobody = histotune("cache", "rm", "fits", "--cache", embedded)
    assert nobody.code == 2 and "2 solved fits" in nobody.out
    removed = histotune("cache", "rm", "fits", "--yes", "--cache", embedded)
    assert "2 solved fits" in removed.out
    assert len(shards(embedded)) == 4
    assert not list((embedded / "fits").glob("*.safetensors"))
