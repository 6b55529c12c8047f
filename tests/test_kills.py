"""Every command killed at each of its changes to files: nothing is left behind, nothing is lost, nothing differs."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.datasets.fetch.server import serving as serving_files
from tests.faults import Action, Change, Server, Watched, serving
from tests.faults.homes import fill

pytestmark = [pytest.mark.slow, pytest.mark.long]
SMALL = (
    "--backbone", "colour-histogram", "--set", "sweep.folds=2", "--set", "evaluation.outer_folds=2",
    "--set", "evaluation.floors=[]", "--set", "interval.n_resamples=200", "--set", "evaluation.permutations=99",
    "--set", "evaluation.leak_price=false", "--set", "evaluation.repeats=0", "--set", "ledger=state",
    "--cache", "cache",
)  # fmt: skip
LEFT_OVER = re.compile(r"\.partial$|\.old$|\.lock$|\.probe$|\.tmp$|-journal$|-wal$|-shm$")
MAY_STAY = re.compile(r"cache/embeddings/[0-9a-f]+/lock$|state/ledger\.lock$")


@dataclass(frozen=True)
class Killed:
    """A command that is killed, what comes before it, and what of its results must be equal to the byte."""

    arguments: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    results: tuple[str, ...] = ()


EMBED = ("embed", "tiles", "--data", "tiles.csv", *SMALL[:2], *SMALL[-2:])
RUN = ("run", "tiles", "--data", "tiles.csv", "--out", "run", *SMALL)
SWEEP = ("sweep", "tiles", "--data", "tiles.csv", "--out", "head", *SMALL)
FORGET = ("cache", "rm", "--all", "--yes", "--cache", "cache")
COMMANDS = {
    "embed": Killed(EMBED, (), ("cache/embeddings/*/shards/*",)),
    "sweep": Killed(
        SWEEP,
        (),
        ("head/head.safetensors", "head/head.json", "head/bundle.json"),
    ),
    "run": Killed(
        RUN, (), ("run/scores.json", "run/predictions.parquet", "run/head/head.safetensors", "run/head/head.json")
    ),
    "run-again": Killed(RUN, (RUN,), ("run/scores.json", "run/predictions.parquet", "run/head/head.json")),
    "predict": Killed(
        ("predict", "head", "tiles.csv", "--out", "p.csv", "--cache", "cache", "--set", "embedding.shard_tiles=8"),
        (SWEEP, FORGET),
        ("p.csv", "p.cases.csv"),
    ),
    "explain": Killed(
        ("explain", "head", "03.png", "04.png", "--out", "maps", "--cache", "cache"), (SWEEP,), ("maps/*",)
    ),
    "report": Killed(("report", "run"), (RUN,), ("run/report.html", "run/scores.json")),
    "cache-export": Killed(
        ("cache", "export", "colour-histogram", "--out", "embeddings.npz", "--cache", "cache"),
        (EMBED,),
        ("embeddings.npz",),
    ),
    "fetch-pcam": Killed(("data", "fetch", "pcam", "--to", "pcam"), (), ("pcam/*.h5", "pcam/*.csv")),
    "fetch-breakhis": Killed(("data", "fetch", "breakhis", "--to", "home"), (), ("home/BreaKHis_v1/**/*",)),
}  # fmt: skip
SAME_KIND = 6
"""Of changes of one kind (the same call on the same kind of file) so many are tried, evenly spread."""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 24 settled tiles of 8 groups and their table."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("tiles")
    rows = []
    for number in range(24):
        label = number // 3 % 2
        pixels = rng.integers(0, 256, (32, 32, 3)) * 0.5 + 60 * label + rng.normal(0, 10)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02d}.png")
        rows.append({"path": f"{number:02d}.png", "label": ("benign", "malignant")[label], "group": f"g{number // 3}"})
    pl.DataFrame(rows).write_csv(folder / "tiles.csv")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """Yield a server and the folder whose changes count."""
    root = tmp_path_factory.mktemp("world")
    with serving_files() as homes:
        fill(homes)
        with serving(root, tmp_path_factory.mktemp("notes"), homes.port) as server:
            yield server, root


def fresh(root: Path, start: Path) -> Path:
    """Return the working folder, as it was before the command."""
    work = root / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(start, work, copy_function=shutil.copy2)
    return work


def succeed(server: Server, arguments: tuple[str, ...], work: Path) -> Watched:
    done = server.run(arguments, work)
    assert done.code == 0, f"{arguments}: {done.code}\n{done.out}\n{done.err}"
    return done


def results(work: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    found = {path.relative_to(work).as_posix(): path for pattern in patterns for path in work.glob(pattern)}
    assert found
    return {name: hashlib.sha256(_steady(path)).hexdigest() for name, path in found.items() if path.is_file()}


def _steady(path: Path) -> bytes:
    """Return a file's bytes without the times that a report holds."""
    data = path.read_bytes()
    return re.sub(rb"\d+\.\d+ s\b|\d{4}-\d\d-\d\d \d\d:\d\d", b"", data) if path.suffix == ".html" else data


def left_over(work: Path) -> list[str]:
    names = [path.relative_to(work).as_posix() for path in work.rglob("*")]
    return [name for name in names if LEFT_OVER.search(name) and not MAY_STAY.search(name)]


def prepare(server: Server, root: Path, tiles: Path, command: Killed, keep: Path) -> Path:
    """Return a copy of the folder as it is when the command begins."""
    work = fresh(root, tiles)
    for earlier in command.before:
        succeed(server, earlier, work)
    shutil.copytree(work, keep, copy_function=shutil.copy2)
    return keep


@pytest.mark.parametrize("action", ["kill", "torn", "full"])
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_command_stopped_at_any_change_loses_nothing_and_leaves_nothing(
    name: str, action: Action, world: tuple[Server, Path], tiles: Path, tmp_path: Path
) -> None:
    server, root = world
    command = COMMANDS[name]
    start = prepare(server, root, tiles, command, tmp_path / "start")
    work = fresh(root, start)
    whole = succeed(server, command.arguments, work)
    expected = results(work, command.results)
    assert not left_over(work)
    changes = thinned([one for one in whole.changes if action == "kill" or is_write(one)])
    bad: list[str] = []
    for change in changes:
        work = fresh(root, start)
        stopped = server.run(command.arguments, work, change.number, action)
        bad += [f"{change}: {fault}" for fault in faults_of(stopped, action)]
        if any(start.glob(command.results[0])) and not kept(work, command.results[0]):
            bad.append(f"{change}: the earlier result is gone")
        done = server.run(command.arguments, work)
        if done.code != 0:
            bad.append(f"{change}: then {done.code}: {done.err[-400:]}")
        elif results(work, command.results) != expected:
            bad.append(f"{change}: other results")
        elif left := left_over(work):
            bad.append(f"{change}: left {left}")
    assert changes
    assert not bad, f"{len(bad)} faults at {len(changes)} changes\n" + "\n".join(bad)


def thinned(changes: list[Change]) -> list[Change]:
    """Return the changes to try: of each kind the first, the last, and some between."""
    by_kind: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        by_kind.setdefault((change.call, kind_of(change.path)), []).append(change)
    tried = [one for same in by_kind.values() for one in spread(same)]
    return sorted(tried, key=lambda change: change.number)


def kind_of(path: str) -> str:
    """Return a path with what differs between files of one kind left out: random letters, hashes and numbers."""
    return re.sub(r"\.[a-z0-9_]{8}\.(partial|old)", r".\1", re.sub(r"[0-9a-f]{12,}|\d+", "#", path))


def spread(same: list[Change]) -> list[Change]:
    places = np.unique(np.linspace(0, len(same) - 1, SAME_KIND).round().astype(int))
    return [same[place] for place in places]


def is_write(change: Change) -> bool:
    """Whether a change needs room on the disk."""
    return "write" in change.call or change.call in ("open", "mkdir", "ftruncate")


def faults_of(stopped: Watched, action: Action) -> Iterator[str]:
    """Yield what is wrong with how a command ended; it may end well, since threads take turns in another order."""
    if action == "full":
        if stopped.code not in (0, 2):
            yield f"ended with {stopped.code}: {stopped.err[-600:]}"
        elif "Traceback" in stopped.err or stopped.err.count("error:") > 1:
            yield f"more than one message: {stopped.err[-600:]}"
    elif stopped.code not in (0, -9):
        yield f"ended with {stopped.code}: {stopped.err[-400:]}"


def kept(work: Path, pattern: str) -> bool:
    """Whether an earlier result is there, or set aside for the next look to bring it back."""
    first = pattern.partition("/")[0]
    return any(work.glob(pattern)) or any(work.glob(f".{first}.*.old"))
