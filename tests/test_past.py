"""Files that histotune kept in the past are read today: same keys, same hashes, same numbers.

The files lie in ``tests/fixtures/past``, whose README says what wrote each of them. They are never written anew when
the code changes. Where a test fails, either the code must read them again, or the format's number must be raised and
the message to the user must say what to do; then the new format gets files of its own beside these.
"""

from __future__ import annotations

import functools
import hashlib
import html
import json
import math
import os
import re
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer.main
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from histotune.embeddings.runner import BatchRunner
from histotune.heads import fit_cache
from histotune.statistics.comparison import KNOWN_OF_CONSTANT

# All that is imported from inside the package. Where these move, only these lines change.
from histotune.studies.config import load_config
from histotune.tools.files import hash_json, write_sealed
from tests.conftest import CommandResult

FIXTURES = Path(__file__).parent / "fixtures" / "past"
FACTS: dict[str, Any] = json.loads((FIXTURES / "facts.json").read_text(encoding="utf-8"))
COMMANDS = [shlex.split(one["command"])[1:] for one in FACTS["commands"] if one["commit"] == FACTS["commit"]]
BREAKHIS = ("breakhis", "--data", "data/breakhis")
BREAKHIS_NAMES = {
    (40, "B", "A"): 625, (40, "M", "DC"): 1370, (100, "B", "A"): 644, (100, "M", "DC"): 1437,
    (200, "B", "A"): 623, (200, "M", "DC"): 1390, (400, "B", "A"): 588, (400, "M", "DC"): 1232,
}  # fmt: skip
INPUTS = ("data", "backbones", "adapters")
HEADS, LEDGER = ("2", "3", "3-hidden", "3-network"), "state/histotune/ledger.jsonl"
IN_A_KEY = ("torch", "timm", "transformers", "pillow")  # their majors are part of the key of a network's space
SAME_SOLVERS = all(version(name) == FACTS["versions"][0][name] for name in ("numpy", "scipy"))
TOLERANCE = 1e-12 if SAME_SOLVERS else 1e-9
"""Relative, of every number that is computed anew. Kernels of OpenBLAS for other processors differ by up to 6e-14 here;
under numpy 2.0 and scipy 1.14 the limit of a calibration's interval, found by a root search, differs by 8e-12."""
REFITTED = 1e-8
"""Relative, of what a diagnosis fits anew: a recalibration stops at a gradient, and another processor lets it
stop elsewhere (1.4e-10 in the limit of an interval, between two kinds of processor)."""

Command = Callable[..., CommandResult]
Bring = Callable[..., Path]
built_once = functools.cache(typer.main.get_command)  # a third of the time of sixty small commands


class ForwardPassError(BaseException):
    """Raised in place of a forward pass; no handler of the package's takes it for an error of its own."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what histotune reads and never writes, for all tests together."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in INPUTS:
        shutil.copytree(FIXTURES / name, folder / name)
    return folder


@pytest.fixture
def bring(histotune: Command, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that copies the named folders beside the inputs and goes there: all paths are relative."""
    folder = tmp_path / "past"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setattr(typer.main, "get_command", built_once)

    def copy(*names: str) -> Path:
        for name in {*INPUTS, *names}:
            try:
                if name in names:
                    raise OSError
                (folder / name).symlink_to(inputs / name, target_is_directory=True)
            except OSError:  # where links take a right that few have
                shutil.copytree(FIXTURES / name, folder / name, copy_function=shutil.copyfile)
        return folder

    return copy


@pytest.fixture
def no_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide columns by their own deviation alone and warn of no tile, as was done then: nothing else has changed."""
    monkeypatch.setattr("histotune.heads.solver.problems.SCALE_FLOOR", 0.0)
    monkeypatch.setattr("histotune.heads.outliers.FAR", math.inf)


@pytest.fixture
def no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every forward pass fail."""

    def refuse(*_: object, **__: object) -> None:
        raise ForwardPassError

    monkeypatch.setattr(BatchRunner, "start", refuse)


def found(histotune: Command, *words: object) -> str:
    """Run a command that must succeed and return what it printed."""
    result = histotune(*words)
    assert result.code == 0, result.err
    return result.out


def recorded(name: str) -> str:
    return (FIXTURES / "recorded" / name).read_text(encoding="utf-8")


def read_json(path: Path) -> Any:  # noqa: ANN401
    return json.loads(path.read_text(encoding="utf-8"))


def decimals(text: str) -> list[str]:
    """Return every number with three decimals, in order: the scores of a printed table, however it is laid out."""
    return re.findall(r"[−+-]?\d\.\d{3}\b", text)


def without_intervals(text: str) -> str:
    """Return a text without its intervals: those of today take the mix of classes for chance, those of then did not."""
    return re.sub(r"\[[^\]]*\]|\([^)]*interval [^)]*\)", "", text)


RENEWED = (
    "interval", "reason", "honest", "p_value", "p_adjusted", "p_words", "smallest_p", "n_permutations", "exact",
    "correction",
)  # fmt: skip
"""Fields that hold intervals, or follow from them or from the tests that make them today."""


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1] if name in words else ""


def command(first: str, about: str, out: str = "") -> list[str]:
    """Return the command of the past that begins so and names this path, with another place for its output."""
    words = next(list(words) for words in COMMANDS if words[0] == first and about in ["", *words])
    if out:
        words[words.index("--out") + 1] = out
    return words


def scored(target: str, more: list[str]) -> str:
    """Return what is said of a target once the kept ledger has been added to, a line per hash of a choice."""
    lines = [json.loads(line) for line in (FIXTURES / LEDGER).read_text(encoding="utf-8").splitlines()]
    choices = [line["choice_hash"] for line in lines if line["target"] == target] + more
    assert len(choices) > len(more)
    several = len(set(choices)) != 1
    return f"{target}: scored {len(choices)} times under {len(set(choices))} choice{'s' * several}"


def skip_where_keys_differ(backbone: str) -> None:
    """Skip where no kept space of a network can have this environment's key, and say why."""
    if backbone == "colour-histogram":
        return
    here = {name: version(name).split(".")[0] for name in IN_A_KEY}
    kept = []
    for path in sorted((FIXTURES / "cache/embeddings").glob("*/space.json")):
        space = read_json(path)
        if space["backbone"] == backbone:
            signature = json.loads(space["signature"])
            kept.append({name: signature[name] for name in IN_A_KEY})
    assert kept, f"no space of {backbone} was kept"
    if here not in kept:
        pytest.skip(f"the key of a network's space holds library majors; kept were {kept}, here are {here}")


def assert_close(
    now: Any,  # noqa: ANN401
    then: Any,  # noqa: ANN401
    place: str = "",
    without: tuple[str, ...] = (),
    tolerance: float = TOLERANCE,
) -> None:
    """Compare two JSON values: numbers within the tolerance, all else exactly; today's objects may have more fields."""
    if isinstance(then, dict):
        assert isinstance(now, dict), place
        for name in then:
            assert name in now, f"{place}/{name} is missing"
            if name not in without:
                assert_close(now[name], then[name], f"{place}/{name}", without, tolerance)
    elif isinstance(then, list):
        assert isinstance(now, list), place
        assert len(now) == len(then), place
        for number, (one, other) in enumerate(zip(now, then, strict=True)):
            assert_close(one, other, f"{place}/{number}", without, tolerance)
    elif isinstance(then, float):
        assert isinstance(now, int | float), place
        assert math.isclose(now, then, rel_tol=tolerance, abs_tol=tolerance), f"{place}: {now!r}, not {then!r}"
    else:
        assert now == then, place


VIEW_OF_THEN = {"random/timm/test_vit": ("--set", "view.resize_px=160")}
"""timm documents a crop of 0.95 of the short side for this network, which was not honoured then."""


# What is kept


def test_git_has_not_changed_a_byte_of_the_kept_files() -> None:
    lines = (FIXTURES / "checksums.txt").read_text(encoding="utf-8").splitlines()
    expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    changed = [name for name, digest in expected.items()
               if hashlib.sha256((FIXTURES / name).read_bytes()).hexdigest() != digest]  # fmt: skip
    assert not changed, "these files are from the past and stay as they are"
    assert sum((FIXTURES / name).stat().st_size for name in expected) < 1_500_000
    here = re.escape(bytes(FIXTURES.parents[2]))  # where this checkout lies
    named = re.compile(rb"/home/|/root|/Users/|root@|" + here)
    assert not [name for name in expected if named.search((FIXTURES / name).read_bytes())], "a machine is named"


# The cache


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "embed"], ids=lambda words: "-".join(
    filter(None, (option(words, "--backbone"), option(words, "--view"), option(words, "--adapter"), words[-1]))
))  # fmt: skip
def test_every_kept_space_is_read_without_a_forward_pass(
    histotune: Command, bring: Bring, no_forward: None, words: list[str]
) -> None:
    skip_where_keys_differ(option(words, "--backbone"))
    past = bring("cache")
    names = (past / "cache/timm_names.json").read_bytes()
    spaces = {path.name for path in (past / "cache/embeddings").iterdir()}
    out = found(histotune, *words, *VIEW_OF_THEN.get(option(words, "--backbone"), ()))
    assert re.search(r"breakhis: (\d+) tiles, 0 computed, \1 from the cache", out), out
    assert "no forward pass was needed" in out
    key = re.search(r"space ([0-9a-f]{16})", out)
    assert key is not None
    assert any(space.startswith(key[1]) for space in spaces)
    assert {path.name for path in (past / "cache/embeddings").iterdir()} == spaces
    assert json.loads(names).items() <= json.loads((past / "cache/timm_names.json").read_bytes()).items()


def test_the_forward_pass_that_these_tests_forbid_is_the_one_that_embeds(
    histotune: Command, bring: Bring, no_forward: None
) -> None:
    tile = next((bring("cache", "data") / "data/breakhis").rglob("*.png"))
    with Image.open(tile) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(tile)
    with pytest.raises(ForwardPassError):
        histotune(*command("embed", "colour-histogram"))


def test_kept_rows_are_exported_with_the_same_values(histotune: Command, bring: Bring, no_forward: None) -> None:
    past = bring("cache")
    found(histotune, *command("cache", "exchange/rows.npz", out="now.npz"))
    with np.load(past / "now.npz") as now, np.load(FIXTURES / "exchange/rows.npz") as then:
        for name in ("features", "tile_id", "content"):
            assert np.array_equal(now[name], then[name]), name


def test_an_index_of_content_hashes_without_checksums_is_given_up_and_made_anew(
    histotune: Command, bring: Bring, no_forward: None
) -> None:
    past = bring("cache", "data")
    restore_index(past)
    tile = next((past / "data/breakhis").rglob("*.png"))
    other = next(path for path in (past / "data/breakhis").rglob("*.png")
                 if path != tile and path.stat().st_size == tile.stat().st_size)  # fmt: skip
    time_ns = tile.stat().st_mtime_ns
    tile.write_bytes(other.read_bytes())
    os.utime(tile, ns=(time_ns, time_ns))
    assert found(histotune, "cache", "verify", "--cache", "cache")
    now = hashlib.sha256(other.read_bytes()).hexdigest()
    assert content_of(tile, histotune, past) == now, "its entries are not believed: nothing tells that they are sound"
    with closing(sqlite3.connect(past / "cache/hashes.sqlite")) as database:
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert names == {"content_2"}
    assert content_of(tile, histotune, past) == now


def content_of(tile: Path, histotune: Command, past: Path) -> str:
    """Return what an export takes for the content hash of a tile."""
    found(histotune, *command("cache", "exchange/rows.npz", out="now.npz"))
    with np.load(past / "now.npz") as rows:
        return texts(rows["content"])[texts(rows["tile_id"]).index(tile.stem)]


def texts(values: NDArray[Any]) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]


def restore_index(past: Path) -> None:
    """Make the kept index speak of the copied files: their paths, and the times that they had."""
    with closing(sqlite3.connect(past / "cache/hashes.sqlite")) as database, database:
        known = database.execute("SELECT DISTINCT path, mtime_ns FROM content").fetchall()
        assert known
        for path, time_ns in known:
            here = past / Path(path).relative_to(FACTS["folder"])
            database.execute("UPDATE content SET path = ? WHERE path = ?", (str(here), path))
            if here.is_relative_to(past / "data"):
                os.utime(here, ns=(time_ns, time_ns))


def test_every_kept_shard_is_sound_and_damage_is_seen(histotune: Command, bring: Bring) -> None:
    past = bring("cache")
    out = found(histotune, "cache", "verify", "--cache", "cache")
    assert out.count("every byte read, 0 damaged") == len(list((past / "cache/embeddings").iterdir()))
    for shard in (past / "cache/embeddings").rglob("*.npy"):
        flip_last_bit(shard)
    result = histotune("cache", "verify", "--cache", "cache")
    assert result.code == 1
    assert "0 damaged" not in result.out


def flip_last_bit(path: Path) -> None:
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))


def test_shards_whose_manifests_had_no_checksum_yet_are_read(histotune: Command, bring: Bring) -> None:
    past = bring("cache-early")
    out = found(histotune, "cache", "verify", "--cache", "cache-early")
    assert "48 rows in 1 shards, every byte read, 0 damaged" in out
    manifest = next((past / "cache-early").rglob("shards/*.json"))
    assert not {"checksum", "space", "dtype"} & set(read_json(manifest))
    found(histotune, "cache", "export", "colour-histogram", "--cache", "cache-early", "--out", "early.npz")
    with np.load(past / "early.npz") as early:
        row = {content: number for number, content in enumerate(texts(early["content"]))}
        order = [row[content] for content in read_json(manifest)["content"]]
        assert np.array_equal(early["features"][order], np.load(manifest.with_suffix(".npy")))


def test_imported_embeddings_keep_their_name_and_their_rows(histotune: Command, bring: Bring, no_forward: None) -> None:
    past = bring("cache")
    words = ("embed", *BREAKHIS, "--backbone", "external:other", "--cache", "cache")
    assert "48 tiles, 0 computed" in found(histotune, *words)
    found(histotune, "cache", "export", "external:other", "--cache", "cache", "--out", "other.npz")
    with np.load(past / "other.npz") as now, np.load(FIXTURES / "exchange/rows.npz") as then:
        row = {content: number for number, content in enumerate(texts(then["content"]))}
        order = [row[content] for content in texts(now["content"])]
        assert np.array_equal(now["features"], then["features"][order])


@pytest.mark.parametrize(("files", "data"), [
    ("rows.npz", BREAKHIS), ("rows.parquet", BREAKHIS), ("slides", ("tiles", "--data", "data/tiles.csv")),
])  # fmt: skip
def test_exported_embeddings_are_imported(histotune: Command, bring: Bring, files: str, data: tuple[str, ...]) -> None:
    past = bring("exchange")
    words = ("cache", "import", f"exchange/{files}", "--as", "again", "--cache", "cache", "--dataset", *data)
    out = found(histotune, *words)
    n_rows = 8 if files == "slides" else 48
    assert f"{n_rows} of {n_rows} rows" in out
    record = read_json(past / "cache/external/again.json")
    assert (record["claimed"], record["blocks"]) == ("colour-histogram", ["pooled"])


def test_solved_fits_are_read_where_their_key_is_asked_for(bring: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key holds the code of the solver, on purpose: only a file's format is held here, not its key."""

    def refuse() -> dict[str, Any]:
        raise AssertionError("the kept fits were not read")

    files = sorted((bring("cache") / "cache/fits").glob("*.safetensors"))
    assert files
    for path in files:
        with safe_open(path, framework="numpy") as file:
            key = file.metadata()["key"]
        monkeypatch.setattr(fit_cache, "fit_key", lambda *_, key=key: key)
        kept = fit_cache.FitCache(path.parent).recall({}, {}, refuse)
        then = load_file(FIXTURES / "cache/fits" / path.name)
        assert {name: values.tobytes() for name, values in kept.items()} == {
            name: values.tobytes() for name, values in then.items()
        }


def test_a_sweep_over_the_kept_cache_chooses_the_kept_head(
    histotune: Command, bring: Bring, no_forward: None, no_floor: None
) -> None:
    past = bring("cache", "state")
    fits = {path.name for path in (past / "cache/fits").iterdir()}
    out = found(histotune, *command("sweep", "heads/3", out="again"))
    assert fits <= {path.name for path in (past / "cache/fits").iterdir()}
    now, then = (read_json(folder / "head.json") for folder in (past / "again", FIXTURES / "heads/3"))
    new = ("checksum", "class_mapping", "format_version")  # of format 4
    assert_close(now, then, without=("head_id", "weights_sha256", *new, *RENEWED))
    for name, values in load_file(FIXTURES / "heads/3/head.safetensors").items():
        np.testing.assert_allclose(load_file(past / "again/head.safetensors")[name], values, rtol=1e-9, atol=1e-9)
    assert now["head_id"] in out
    n_runs = len(list((FIXTURES / "state/histotune/trials/v1").iterdir()))
    assert f"{n_runs + 1} runs" in found(histotune, "trials", "--all")


# Heads


@pytest.mark.parametrize("head", HEADS)
def test_a_kept_head_scores_as_it_did_and_the_ledger_counts_on(
    histotune: Command, bring: Bring, no_forward: None, head: str
) -> None:
    facts = read_json(FIXTURES / f"heads/{head}/head.json")
    skip_where_keys_differ(facts["backbone"])
    past = bring("cache", "heads", "state")
    out = found(histotune, *command("evaluate", f"heads/{head}"))
    assert f"Head {facts['head_id']} on breakhis" in out
    then = recorded(f"evaluate-{head}.txt")
    scores = re.sub(
        r"^ *Decisions, .*?^malignant [^\n]*\n", "", out, flags=re.MULTILINE | re.DOTALL
    )  # not printed then
    assert scores != out
    assert decimals(without_intervals(scores)) == decimals(without_intervals(then))
    assert (len(decimals(then)), len(decimals(scores))) == (12, 12)
    assert scored("breakhis", [facts["head_id"]]) in out
    kept = (FIXTURES / LEDGER).read_text(encoding="utf-8")
    assert (past / LEDGER).read_text(encoding="utf-8").startswith(kept)


@pytest.mark.parametrize("head", HEADS)
def test_a_kept_head_predicts_as_it_did(histotune: Command, bring: Bring, no_forward: None, head: str) -> None:
    skip_where_keys_differ(read_json(FIXTURES / f"heads/{head}/head.json")["backbone"])
    past = bring("cache", "heads")
    found(histotune, *command("predict", f"heads/{head}", out="now.csv"))
    now, then = (pl.read_csv(path) for path in (past / "now.csv", FIXTURES / f"recorded/predict-{head}.csv"))
    more = ["threshold", "decision", "set", "abstains", "distance", "far", "input_mpp", "other_scale", "slide", "case"]
    assert now.columns == [*then.columns, *more]  # which the table of those days did not have
    assert now["set"].null_count() == len(now), "it gives no sets: its held-out predictions were not kept"
    assert now.select("path", "predicted").equals(then.select("path", "predicted"))
    for name in then.columns[2:]:
        np.testing.assert_allclose(now[name], then[name], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("head", ["2", "3"])
def test_the_recorded_probabilities_are_those_of_the_kept_weights_on_the_kept_rows(head: str) -> None:
    facts = read_json(FIXTURES / f"heads/{head}/head.json")
    tensors = load_file(FIXTURES / f"heads/{head}/head.safetensors")
    temperature = facts["temperature"] if head == "2" else facts["calibration"]["temperature"]
    table = pl.read_csv(FIXTURES / f"recorded/predict-{head}.csv")
    with np.load(FIXTURES / "exchange/rows.npz") as rows:
        row = {name: number for number, name in enumerate(texts(rows["tile_id"]))}
        x_ND = rows["features"][[row[Path(path).stem] for path in table["path"]]].astype(np.float64)
    logit_NK = (x_ND[:, facts["columns"]] @ tensors["weight_KD"].T + tensors["bias_K"]) / temperature
    probability_N = 1 / (1 + np.exp(logit_NK[:, 0] - logit_NK[:, 1]))
    np.testing.assert_allclose(table["probability_malignant"], probability_N, rtol=TOLERANCE)


def test_a_head_of_the_first_format_is_refused_with_the_reason(histotune: Command, bring: Bring) -> None:
    bring("heads")
    result = histotune("evaluate", "heads/1", *BREAKHIS)
    assert result.code == 2
    assert "another format version" in result.err
    assert "2, 3" in result.err


@pytest.mark.parametrize("head", ["2", "3", "3-hidden"])
@pytest.mark.parametrize("file", ["head.safetensors", "head.json"])
def test_a_changed_byte_of_a_kept_head_is_refused(histotune: Command, bring: Bring, head: str, file: str) -> None:
    path = bring("heads") / f"heads/{head}" / file
    if file == "head.json":
        kept = path.read_text(encoding="utf-8")
        path.write_text(kept.replace('"threshold": 0.', '"threshold": 0.1'), encoding="utf-8")
        assert path.read_text(encoding="utf-8") != kept
    else:
        flip_last_bit(path)
    result = histotune(*command("predict", f"heads/{head}", out="now.csv"))
    assert result.code == 2
    assert "this head is damaged" in result.err


# A fine-tuned head and the changed tensors beside it, of the first format of their sidecar


def tuned_words(out: str) -> list[str]:
    """Return the command that read the tuned head then, with another place for its output."""
    facts = read_json(FIXTURES / "facts-4-tuned.json")
    words = next(words for one in facts["commands"] if (words := shlex.split(one["command"])[1:])[0] == "predict")
    words[words.index("--out") + 1] = out
    return words


def test_a_kept_tuned_head_predicts_as_it_did(histotune: Command, bring: Bring) -> None:
    past = bring("heads")
    found(
        histotune, *tuned_words("now.csv")
    )  # by a forward pass: the adapter is put into the network, and none is kept
    now, then = (pl.read_csv(path) for path in (past / "now.csv", FIXTURES / "recorded/predict-4-tuned.csv"))
    assert now.columns[: len(then.columns)] == then.columns  # what stands behind them came later
    assert now.select("path", "predicted", "decision").equals(then.select("path", "predicted", "decision"))
    for name in (name for name in then.columns if name.startswith("probability")):
        np.testing.assert_allclose(now[name], then[name], atol=1e-5)
    bare = (past / "heads/4-tuned/bundle.json", "without.csv")
    facts = {name: value for name, value in read_json(bare[0]).items() if name != "checksum"}
    write_sealed(bare[0], {**facts, "backbone": {**facts["backbone"], "adapter": ""}})
    result = histotune(*tuned_words(bare[1]))
    assert result.code == 2, "a tuned head on the network that it was not trained with"


@pytest.mark.parametrize("file", ["tuned_weights.safetensors", "histotune_adapter.json"])
def test_a_changed_byte_of_kept_changed_tensors_is_refused(histotune: Command, bring: Bring, file: str) -> None:
    path = bring("heads") / "heads/4-tuned/adapter" / file
    if file.endswith(".json"):
        kept = path.read_text(encoding="utf-8")
        path.write_text(kept.replace('"method": "last-blocks"', '"method": "full"'), encoding="utf-8")
        assert path.read_text(encoding="utf-8") != kept
    else:
        flip_last_bit(path)
    result = histotune(*tuned_words("now.csv"))
    assert result.code == 2
    assert "has changed since it was written" in result.err or "is damaged or not histotune's" in result.err


# Splits


@pytest.mark.parametrize("name", ["folds", "parts"])
def test_a_kept_split_is_read_and_made_again_byte_by_byte(histotune: Command, bring: Bring, name: str) -> None:
    past = bring("splits")
    kept = past / f"splits/{name}.json"
    out = found(histotune, "data", "split", *BREAKHIS, "--split", kept)
    assert f"hash {read_json(kept)['split_hash']}" in out
    if name == "folds":
        assert out.split() == recorded("split.txt").split()
    found(histotune, *command("data", f"splits/{name}.json", out="again.json"))
    assert (past / "again.json").read_bytes() == kept.read_bytes()


@pytest.mark.parametrize("change", ["a side", "a mark"])
@pytest.mark.parametrize("name", ["folds", "parts"])
def test_a_changed_byte_of_a_kept_split_is_refused(histotune: Command, bring: Bring, name: str, change: str) -> None:
    path = bring("splits") / f"splits/{name}.json"
    kept, (key, side) = path.read_text(encoding="utf-8"), next(iter(read_json(path)["side_by_key"].items()))
    other = next(one for one in read_json(path)["side_by_key"].values() if one != side)
    old, new = (
        (f'"{key}": "{side}"', f'"{key}": "{other}"') if change == "a side" else ('leaky": false', 'leaky": true')
    )
    path.write_text(kept.replace(old, new), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != kept
    result = histotune("data", "split", *BREAKHIS, "--split", path)
    assert result.code == 2
    assert "changed after it was written" in result.err


# Runs and studies


def test_a_kept_run_is_drawn_again_with_the_studies_of_its_head(histotune: Command, bring: Bring) -> None:
    past = bring("runs", "studies")
    found(histotune, "report", "runs/histogram", "--add", "studies/transfer", "--add", "studies/matrix",
          "--latex", "tables.tex")  # fmt: skip
    page, tables = ((past / name).read_text(encoding="utf-8") for name in ("runs/histogram/report.html", "tables.tex"))
    scores, transfer, matrix = (read_json(past / name) for name in (
        "runs/histogram/scores.json", "studies/transfer/transfer.json", "studies/matrix/matrix.json"))  # fmt: skip
    values = [row["scores"][0]["value"] for finding in scores["findings"] for row in finding["rows"]]
    assert all(value is None or f"{value:.3f}" in page for value in values)
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
    # the conclusion of a diagnosis stands before the numbers it rests on
    sentences = [one for one in transfer["paragraph"].split(". ") if one]
    for words in (scores["answer"], matrix["answer"], *(one.rstrip(".") for one in sentences)):
        assert " ".join(words.split()) in text
    assert scores["choices"][0]["head_id"] in page
    assert "tabular" in tables
    assert page.count("<figure") >= 13, "a file of the run, or a study, was not drawn"
    assert page.count("data:image/jpeg;base64,") >= len(read_json(past / "runs/histogram/thumbnails.json"))


def test_a_kept_run_of_a_network_is_drawn_again(histotune: Command, bring: Bring) -> None:
    past = bring("runs")
    found(histotune, "report", "runs/network")
    page = (past / "runs/network/report.html").read_text(encoding="utf-8")
    assert read_json(past / "runs/network/scores.json")["choices"][0]["head_id"] in page


@pytest.mark.parametrize("run", ["histogram", "network", "lean", "protocol"])
def test_a_kept_config_means_the_same_choice(histotune: Command, bring: Bring, run: str) -> None:
    folder = bring("runs") / f"runs/{run}"
    assert_close(json.loads(found(histotune, "config", "show", folder)), read_json(folder / "config.json"))
    if run != "protocol":
        scores = read_json(folder / "scores.json")
        heads = [choice["head_id"] for choice in scores["choices"]]
        assert hash_json([load_config(folder).choices(), heads]) == scores["choice_hash"]


def test_a_kept_run_is_repeated_with_the_same_scores(
    histotune: Command, bring: Bring, no_forward: None, no_floor: None
) -> None:
    past = bring("runs", "cache", "state")
    out = found(histotune, "run", "--from", "runs/lean", "--out", "again", "--cache", "cache")
    assert "all embeddings came from the cache, no forward pass was needed" in out
    now, then = (read_json(past / name / "scores.json") for name in ("again", "runs/lean"))
    for number in ("AUROC is 0.667", "100X 0.667"):  # the words around them are others by now
        assert all(number in without_intervals(one["answer"]) for one in (now, then))
    for one in (now, then):  # the majority's known values stand for what its folds measured
        for row in (row for finding in one["findings"] for row in finding["rows"] if row["arm"] == "majority class"):
            row["scores"] = [score for score in row["scores"] if score["name"] not in KNOWN_OF_CONSTANT]
    assert_close(now, then, without=("choice_hash", "head_id", "answer", "warnings", *RENEWED))
    heads = [[choice["head_id"] for choice in one["choices"]] for one in (now, then)]
    same = heads[0] == heads[1]  # not where the BLAS of another processor gives another last bit
    assert (now["choice_hash"] == then["choice_hash"]) == same
    assert scored("tiles cross-fit", [now["choice_hash"]]) in out
    predictions = [pl.read_parquet(past / name / "predictions.parquet") for name in ("again", "runs/lean")]
    assert predictions[0].schema == predictions[1].schema
    np.testing.assert_allclose(*(table["logit"].explode() for table in predictions), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("run", "name"), [("histogram", "compare"), ("protocol", "protocol")])
def test_kept_runs_are_compared_as_they_were(histotune: Command, bring: Bring, run: str, name: str) -> None:
    past = bring("runs")
    found(histotune, *command("compare", f"runs/{run}", out="compared"))
    then = read_json(FIXTURES / f"recorded/{name}/comparison.json")
    assert_close(read_json(past / "compared/comparison.json"), then, without=RENEWED)


def test_a_kept_run_of_a_protocol_is_held_against_published_ones(histotune: Command, bring: Bring) -> None:
    rows = read_json(bring("runs") / "runs/protocol/protocol.json")["rows"]
    result = histotune("leaderboard", "--run", "runs/protocol")
    assert result.code == 2
    for row in rows:
        assert f"{row['name']} ({row['pooling']}) of runs/protocol: nobody has published scores" in result.err


CLASSES_READ = (
    "Classes of patch_camelyon by their names: normal is read as benign and tumour is read as malignant; another "
    "reading: --classes NAME=CLASS,..."
)
"""What is said today where classes of two names were matched by their order before."""


def test_a_kept_run_is_diagnosed_as_it_was(histotune: Command, bring: Bring, no_forward: None, no_floor: None) -> None:
    past = bring("runs", "cache", "state")
    out = found(histotune, *command("transfer", "--no-images", out="again"))
    now, then = (read_json(path / "transfer.json") for path in (past / "again", FIXTURES / "recorded/transfer"))
    then["notes"].insert(now["notes"].index(CLASSES_READ), CLASSES_READ)
    for one in (now, then):  # words follow the intervals, which are others by now
        assert "On the source itself it is not shown to rank better than chance" in one.pop("paragraph")
    assert_close(now, then, without=("command", "ledger", "provenance", *RENEWED), tolerance=REFITTED)
    assert scored("patch_camelyon test", [then["head_id"]]) in out


@pytest.mark.slow  # it imports torch, for the stain alone
def test_tiles_of_another_scale_and_stain_are_kept_too(
    histotune: Command, bring: Bring, no_forward: None, no_floor: None
) -> None:
    pytest.importorskip("torchstain", reason="the kept diagnosis has a stain remedy, which needs torchstain")
    past = bring("runs", "cache", "state")
    found(histotune, *command("transfer", "studies/transfer", out="again"))
    now, then = (read_json(path / "transfer.json") for path in (past / "again", FIXTURES / "studies/transfer"))
    then["notes"].insert(now["notes"].index(CLASSES_READ), CLASSES_READ)
    without = ("command", "ledger", "provenance", "paragraph", *RENEWED)  # words follow the intervals
    assert_close(now, then, without=without, tolerance=REFITTED)


# Records


def test_the_table_of_trials_is_read(histotune: Command, bring: Bring) -> None:
    tables = [pl.read_parquet(path) for path in sorted((bring("state") / "state/histotune/trials/v1").iterdir())]
    out = found(histotune, "trials", "--all", "--top", 1000)
    assert f"{sum(map(len, tables)):,} trials of {len(tables)} runs" in out
    for run_id in (str(table["run_id"][0]) for table in tables):
        assert run_id in out


def test_a_rendered_cohort_is_known_by_its_mark(histotune: Command, bring: Bring) -> None:
    """A cohort takes 10 MB, so empty files, which no reader takes, stand in for its images."""
    folder = bring("cohort") / "cohort"
    folder.rename(folder.with_name("synthetic"))
    folder = folder.with_name("synthetic")
    (folder / "oracle.json").touch()
    for place in (*(f"breakhis/{number}.png" for number in range(40)), *(f"pcam/{number}.h5" for number in range(6))):
        (folder / place).touch()
    words = command("demo", "", out="again")
    words[words.index("--cache") + 1] = "."
    result = histotune(*words)
    assert result.code == 2
    assert "such as 0.png" in result.err, "the mark was not taken for one, and nothing was read"
    assert (folder / "oracle.json").stat().st_size == 0, "it was rendered anew"


def test_the_mark_of_a_rendered_cohort_marks_every_number(histotune: Command, bring: Bring) -> None:
    past = bring("cohort", "data")
    words = ("data", "describe", *BREAKHIS)
    assert "SYNTHETIC BreakHis" not in found(histotune, *words)
    shutil.copy(past / "cohort/breakhis/SYNTHETIC.json", past / "data/breakhis")
    assert "SYNTHETIC BreakHis" in found(histotune, *words)


def test_a_fetch_trusts_the_receipt_of_a_download(histotune: Command, bring: Bring) -> None:
    """Files of BreakHis's names and no content: as many as the receipt was written for."""
    folder = bring("fetched") / "fetched"
    for (magnification, letter, kind), count in BREAKHIS_NAMES.items():
        place = folder / "BreaKHis_v1" / letter / f"{magnification}X"
        place.mkdir(parents=True)
        for number in range(count):
            name = f"{place}/SOB_{letter}_{kind}-14-1000-{magnification}-{number:04d}.png"
            os.close(os.open(name, os.O_CREAT))  # a third of the time of Path.touch, over 7,909 files
    (folder / ".fetch").mkdir()
    receipt = (folder / "receipt.json").rename(folder / ".fetch/receipt.json")
    assert "nothing was fetched" in found(histotune, "data", "fetch", "breakhis", "--to", folder)
    assert receipt.read_bytes() == (FIXTURES / "fetched/receipt.json").read_bytes(), "another one was written"
