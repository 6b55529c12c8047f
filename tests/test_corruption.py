"""Bytes changed in every kind of file that is kept: each change is told, or changes nothing; none ends in a traceback.

Heads, bundles, manifests and ledgers have every byte changed in the tests of their own files; here are the others, and
the files of a run. ``docs/reliability.md`` has the tries and results.
"""

from __future__ import annotations

import ast
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import histotune as ht
from histotune.backbones.catalog import (
    ExternalFile,
    ExternalRecord,
    colour_histogram,
    read_external,
    read_timm_names,
    write_external,
)
from histotune.datasets.disk import marked_synthetic
from histotune.datasets.fetch.source import FetchedFile, Receipt, read_receipt, write_receipt
from histotune.datasets.splits.named import load_split, named_split, save_split
from histotune.datasets.synthetic.cohort import SyntheticConfig
from histotune.datasets.synthetic.cohort_folder import MARK, WARNING, cohort_files, cohort_mark
from histotune.embeddings.precision import PrecisionCheck, PrecisionChoice, read_choice, write_choice
from histotune.embeddings.runner import remembered_batch_size
from histotune.embeddings.space import EmbeddingConfig, EmbedRequest, external_space
from histotune.embeddings.store import ShardPlan, Store, read_manifest
from histotune.heads.fit_cache import FitCache
from histotune.images.config import LoaderConfig, ViewConfig
from histotune.report.run_folder import load_run
from histotune.studies.config import load_config
from histotune.studies.setup import claimed_folder
from histotune.studies.tracking import read_trials
from histotune.tools.errors import UserError
from histotune.tools.files import canonical_json, parse_json, write_json, write_sealed
from tests.damage import changed_bytes

TRIES, QUICK = 5_000, 40
HOW_MANY = [QUICK, pytest.param(TRIES, marks=[pytest.mark.slow, pytest.mark.long])]
SMALL = {
    "sweep.folds": 2, "evaluation.outer_folds": 2, "evaluation.floors": [], "interval.n_resamples": 200,
    "evaluation.permutations": 99, "evaluation.leak_price": False, "evaluation.repeats": 0,
}  # fmt: skip
RUN_FILES = (
    "config.json", "scores.json", "provenance.json", "thumbnails.json", "predictions.parquet", "trials.parquet",
    "manifest.json", "thumbnails/000.jpg", "head/head.json", "head/bundle.json", "head/head.safetensors",
)  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """A file that is kept, and what reads it: a comparable value, or a UserError."""

    path: Path
    read: Callable[[], object]


class Heard(logging.Handler):
    """Counts warnings of the package."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.n_warnings = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        del record
        self.n_warnings += 1


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Listen to the package's warnings."""
    handler = Heard()
    logging.getLogger("histotune").addHandler(handler)
    yield handler
    logging.getLogger("histotune").removeHandler(handler)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 24 tiles, a run of them, its cache, its ledger and its trials."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        label = number // 3 % 2
        pixels = rng.integers(0, 256, (32, 32, 3)) * 0.5 + 2 * label
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02d}.png")
        rows.append({"path": f"{number:02d}.png", "label": ("benign", "malignant")[label], "group": f"g{number // 3}"})
    pl.DataFrame(rows).write_csv(folder / "tiles.csv")
    ht.run(
        "tiles", folder / "tiles.csv", backbone="colour-histogram", out=folder / "run", cache=folder / "cache",
        set={**SMALL, "ledger": str(folder / "state")},
    )  # fmt: skip
    return folder


def damage_found(kept: Kept, heard: Heard, n_tries: int, seed: int = 0) -> dict[str, int]:
    """Change one random byte at a time and count what became of it; the file is as it was afterwards."""
    rng = np.random.default_rng(seed)
    whole, expected = kept.path.read_bytes(), kept.read()
    counts = {"refused": 0, "told": 0, "harmless": 0, "silent": 0}
    for _ in range(n_tries):
        place = int(rng.integers(len(whole)))
        other = bytes([whole[place] ^ int(rng.integers(1, 256))])
        kept.path.write_bytes(whole[:place] + other + whole[place + 1 :])
        before = heard.n_warnings
        try:
            same = kept.read() == expected
        except UserError:
            counts["refused"] += 1
        else:
            counts["told" if heard.n_warnings > before else "harmless" if same else "silent"] += 1
    kept.path.write_bytes(whole)
    assert kept.read() == expected
    return counts


def run_value(run: Path) -> object:
    inputs = load_run(run)
    tables = {name: None if table is None else table.rows() for name, table in vars(inputs.artifacts).items()}
    return canonical_json([inputs.findings.as_dict(), inputs.config, inputs.provenance]), str(tables), inputs.thumbnails


@pytest.mark.parametrize("n_tries", HOW_MANY)
@pytest.mark.parametrize("name", RUN_FILES)
def test_files_of_a_run(world: Path, heard: Heard, name: str, n_tries: int) -> None:
    run = world / "run"
    counts = damage_found(Kept(run / name, lambda: run_value(run)), heard, n_tries)
    assert counts["silent"] == counts["told"] == 0
    assert counts["refused"] > 0.9 * n_tries
    if name == "config.json":
        assert damage_found(Kept(run / name, lambda: load_config(run)), heard, n_tries)["silent"] == 0


def kept_trials(world: Path, _: Path) -> Kept:
    (path,) = (world / "state" / "trials" / "v1").glob("*.parquet")
    return Kept(path, lambda: str(read_trials(world / "state").rows()))


def kept_space(world: Path, _: Path) -> Kept:
    (path,) = (world / "cache" / "embeddings").glob("*/space.json")
    return Kept(path, lambda: Store.at(path.parent).space)


def kept_manifest(world: Path, _: Path) -> Kept:
    path = next((world / "cache" / "embeddings").glob("*/shards/*.json"))
    sound = read_manifest(path)
    store = Store.at(path.parent.parent)

    def read() -> object:
        if store.inspect().damaged:
            raise UserError("a damaged shard is set aside and computed again")
        return read_manifest(path) == sound

    return Kept(path, read)


def kept_matrix(world: Path, _: Path) -> Kept:
    path = next((world / "cache" / "embeddings").glob("*/shards/*.npy"))
    store, manifest = Store.at(path.parent.parent), read_manifest(path.with_suffix(".json"))
    assert manifest is not None

    def read() -> object:
        if store.verify():
            raise UserError("a damaged shard is set aside and computed again")
        return path.read_bytes()

    return Kept(path, read)


def kept_fits(_: Path, folder: Path) -> Kept:
    cache = FitCache.at(folder)
    inputs, solution = {"x_ND": np.arange(12.0).reshape(3, 4)}, {"weight": np.arange(5.0), "passes": np.array(3)}

    def read() -> object:
        found = cache.recall(inputs, {"solver": "made"}, lambda: solution)
        return {name: values.tobytes() for name, values in found.items()}

    read()
    (path,) = (folder / "fits").glob("*.safetensors")
    return Kept(path, read)


def kept_precision(_: Path, folder: Path) -> Kept:
    check = PrecisionCheck("bf16", 256, 0.001, 0.002, 0.003, passed=True)
    write_choice(PrecisionChoice("bf16", (check,), str(check)), folder / "record.json")
    return Kept(folder / "record.json", lambda: read_choice(folder / "record.json", ("bf16", "fp32")))


def kept_timm_names(_: Path, folder: Path) -> Kept:
    write_sealed(folder / "timm_names.json", {'["1.0", "vit"]': asdict(colour_histogram())})
    return Kept(folder / "timm_names.json", lambda: read_timm_names(folder / "timm_names.json"))


def kept_external(_: Path, folder: Path) -> Kept:
    write_external(ExternalRecord("other", "uni", (ExternalFile("a.npz", "ab" * 32, 24),), ("pooled",)), folder)
    return Kept(folder / "external" / "other.json", lambda: read_external("other", folder))


def kept_receipt(_: Path, folder: Path) -> Kept:
    file = FetchedFile("BreaKHis_v1.tar.gz", 1234, 5, "0" * 32, "1" * 64, "length and MD5")
    write_receipt(folder, Receipt("breakhis", "home", "https://example.org/a", (file,), complete=True, notes=("note",)))
    return Kept(folder / ".fetch" / "receipt.json", lambda: read_receipt(folder))


def kept_split(world: Path, folder: Path) -> Kept:
    tiles = ht.read("tiles", world / "tiles.csv")
    save_split(named_split("grouped-2-seed0", tiles), folder / "split.json")
    return Kept(folder / "split.json", lambda: load_split(folder / "split.json", tiles))


def kept_batch_size(_: Path, folder: Path) -> Kept:
    space = external_space("made", "0" * 64)
    request = EmbedRequest(colour_histogram(), ViewConfig(size_px=32), EmbeddingConfig(), LoaderConfig(), folder)
    path = folder / "batches" / f"{space.key[:32]}.json"
    write_sealed(path, {"batch_size": 64, "rates": [{"batch_size": 64, "images_per_s": 100.5}]})
    return Kept(path, lambda: remembered_batch_size(request, space))


def kept_plan(_: Path, folder: Path) -> Kept:
    store = Store(folder, external_space("made", "0" * 64))
    plans = (ShardPlan(("a" * 64, "b" * 64), 32), ShardPlan(("c" * 64,), 16))
    store.write_plan(plans)
    return Kept(store.folder / "pending.json", store.read_plan)


KINDS = {
    "table of trials": kept_trials,
    "space.json": kept_space,
    "manifest of a shard": kept_manifest,
    "matrix of a shard": kept_matrix,
    "solved fits": kept_fits,
    "record of a precision check": kept_precision,
    "timm_names.json": kept_timm_names,
    "record of an import": kept_external,
    "receipt of a fetch": kept_receipt,
    "batch size of a space": kept_batch_size,
    "split": kept_split,
    "plan of an interrupted run": kept_plan,
}


@pytest.mark.parametrize("n_tries", HOW_MANY)
@pytest.mark.parametrize("kind", KINDS)
def test_every_other_kind_of_file(world: Path, tmp_path: Path, heard: Heard, kind: str, n_tries: int) -> None:
    counts = damage_found(KINDS[kind](world, tmp_path), heard, n_tries)
    assert counts["silent"] == 0, counts
    assert counts["refused"] + counts["told"] > 0.5 * n_tries, counts


def test_every_byte_of_a_split(world: Path, tmp_path: Path) -> None:
    kept = kept_split(world, tmp_path)
    sound = kept.read()
    n_tries, silent = changed_bytes(kept.path, lambda: kept.read() == sound)
    assert n_tries > 1000 and silent == []


@pytest.mark.parametrize("n_tries", HOW_MANY)
@pytest.mark.parametrize("part", ["breakhis", "pcam"])
def test_a_damaged_mark_of_a_cohort_neither_hides_nor_blocks_it(tmp_path: Path, part: str, n_tries: int) -> None:
    """Its content says which cohort is there; that it is there says that the tissue is synthetic."""
    mark = cohort_mark(SyntheticConfig())
    for name in ("breakhis", "pcam"):
        write_json(tmp_path / name / MARK, mark)
    write_json(tmp_path / "oracle.json", {"what": WARNING})
    path = tmp_path / part / MARK
    whole, expected = path.read_bytes(), cohort_files(tmp_path)
    rng = np.random.default_rng(0)
    for _ in range(n_tries):
        place = int(rng.integers(len(whole)))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ int(rng.integers(1, 256))]) + whole[place + 1 :])
        assert cohort_files(tmp_path) == expected
        assert marked_synthetic(tmp_path / part)


@pytest.mark.parametrize("name", ["space.json", "pending.json"])
def test_the_next_run_mends_a_damaged_description(world: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    (space,) = (world / "cache" / "embeddings").glob("*/space.json")
    whole = space.read_bytes()
    space.with_name(name).write_bytes(b"{" + whole[1:].replace(b"colour", b"color"))
    found = ht.embed(ht.read("tiles", world / "tiles.csv"), "colour-histogram", cache=world / "cache")
    assert found.embeddings.n_computed == 0
    assert space.read_bytes() == whole
    assert ("written anew" in caplog.text) == (name == "space.json")
    space.with_name("pending.json").unlink(missing_ok=True)


# Verbs that read the folder of a run


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    """Return a copy of the run."""
    return Path(shutil.copytree(world / "run", tmp_path / "run"))


def change_a_digit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = next(place for place in range(len(data) // 2, len(data)) if chr(data[place]) in "12345678")
    data[place] += 1
    path.write_bytes(bytes(data))


READERS: dict[str, Callable[[Path, Path], object]] = {
    "report": lambda run, _: ht.report(run),
    "compare": lambda run, world: ht.compare([run, world / "run"], permutations=9),
    "transfer": lambda run, world: ht.transfer(run, "tiles", world / "tiles.csv", out=run.parent / "t", images=False),
}


@pytest.mark.parametrize("verb", READERS)
def test_a_changed_score_is_refused_by_whoever_reads_it(world: Path, run: Path, verb: str) -> None:
    change_a_digit(run / "scores.json")
    with pytest.raises(UserError, match=r"scores\.json \(changed\)") as caught:
        READERS[verb](run, world)
    assert f"histotune run --from {run} --out NEW" in str(caught.value)


def test_the_advice_works_and_a_changed_config_is_refused(world: Path, run: Path) -> None:
    change_a_digit(run / "scores.json")
    again = ht.run(from_run=run, out=run.parent / "new", cache=world / "cache", set={"ledger": str(run.parent / "l")})
    assert (again.folder / "manifest.json").is_file()
    change_a_digit(run / "config.json")
    with pytest.raises(UserError, match=r"config\.json \(changed\)"):
        ht.run(from_run=run, out=run.parent / "new")


def test_damaged_parquet_is_one_message(run: Path) -> None:
    (run / "predictions.parquet").write_bytes(b"PAR1" + b"x" * 1000 + b"PAR1")
    with pytest.raises(UserError, match="predictions"):
        ht.report(run)
    for name in ("manifest.json", "provenance.json"):
        (run / name).unlink()
    shutil.copy(run / "config.json", run / "provenance.json")
    with pytest.raises(UserError, match="damaged"):
        ht.report(run)


def test_a_lost_manifest_is_refused_and_a_folder_of_an_earlier_version_read_with_a_note(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "manifest.json").unlink()
    with pytest.raises(UserError, match="which is gone"):
        ht.report(run)
    facts = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
    write_json(run / "provenance.json", {name: value for name, value in facts.items() if name != "manifest"})
    ht.report(run)
    assert caplog.text.count("has no manifest.json") == 1


def test_a_damaged_run_is_replaced_by_the_next(run: Path) -> None:
    config = load_config(run).model_copy(update={"out": run})
    whole = (run / "config.json").read_bytes()
    (run / "config.json").write_bytes(b"{")
    with claimed_folder(config):
        (run / "config.json").write_bytes(whole)
    (run / "manifest.json").write_bytes(b"{")
    with claimed_folder(config):
        assert run.is_dir()


def test_every_reader_of_json_is_the_one_that_knows_endless_nesting() -> None:
    """``json.loads`` raises RecursionError on 200,000 brackets, which no handler of damage expects."""
    package = Path(ht.__file__).parent
    found = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("loads", "load") and ast.unparse(node.value) == "json"
    ]
    assert found == [
        "report/recompute.py",
        "tools/files.py",
    ]  # the first is a program of its own, in no process of ours


@pytest.mark.parametrize("depth", [101, 900, 200_000])
def test_endless_nesting_is_no_json(depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth):
        with pytest.raises(ValueError, match=r"nested too deeply|Expecting"):
            parse_json(text)
    assert parse_json("[" * 90 + "]" * 90)
