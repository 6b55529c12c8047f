"""Several processes on one space: the leader plans and waits, the others take their share of its plan.

They meet in the folder of the space and nowhere else, so that it works on any file system that they share. The leader
holds the space's lock and announces its plan under a token of its own; who works on it holds a lock named by token and
rank, which the operating system frees when its process dies. An announcement left by a killed run costs nothing: its
shards are shards, and whoever has served it goes on looking.
"""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.embeddings.owned import owned_in
from histotune.images.decode import PixelSource, UnreadableTile, UnreadableTilesError, tile_sources
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, is_locked, lock, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.store import ShardPlan, Store
    from histotune.tools.ranks import ProcessRank

POLL_S = 0.2
AGAIN_S = 0.01  # two looks at a lock: somebody else's look holds it for microseconds


@dataclass(frozen=True)
class Round:
    """A plan as its leader announces it.

    Attributes:
        token: Names this announcement alone.
        world_size: Processes that share it.
        tiles: Hash of the tile set that it is for.
        unreadable: Tile id -> reason, for tiles left out of it.
        shards: Names of its shards, in order.
    """

    token: str
    world_size: int
    tiles: str
    unreadable: Mapping[str, str]
    shards: tuple[str, ...]


class LeaveOutError(Exception):
    """Tells a rank to begin again without the tiles that its leader leaves out."""

    def __init__(self, unreadable: Mapping[str, str]) -> None:
        self.unreadable = dict(unreadable)
        super().__init__()


class Workers:
    """What one process needs to embed a tile set together with others; nothing is written where it is alone.

    Args:
        rank: Which process this is.
        tiles: All tiles.
        wait_s: How long to wait for a process that shows no sign of life.

    Attributes:
        unreadable: Tile id -> reason, for tiles left out so far.
    """

    def __init__(self, rank: ProcessRank, tiles: TileSet, wait_s: float) -> None:
        self.rank = rank
        self.unreadable: dict[str, str] = {}
        self._wait_s = wait_s
        self._bad: list[UnreadableTile] = []
        self._served: set[str] = set()
        self._round: Round | None = None
        self._tiles = ""
        if rank.world_size > 1:
            places = (
                f"{tile_id} {source.path} {source.row}"
                for tile_id, source in zip(tiles.tile_ids, tile_sources(tiles), strict=True)
            )
            self._tiles = hash_bytes(*places)

    def leave_out(self, unreadable: Mapping[str, str], tiles: Sequence[UnreadableTile]) -> None:
        """Leave out tiles that this process can't read."""
        self.unreadable.update(unreadable)
        self._bad += tiles

    @contextmanager
    def announced(self, store: Store, plans: Sequence[ShardPlan]) -> Iterator[None]:
        """Offer the plan to the other ranks for the block; for the process that holds the space's lock."""
        _clear(store)
        if self.rank.world_size > 1:
            names = tuple(plan.name for plan in plans)
            self._round = Round(secrets.token_hex(8), self.rank.world_size, self._tiles, dict(self.unreadable), names)
            write_json(_announcement(store), asdict(self._round))
        try:
            yield
        finally:
            self._round = None
            _clear(store)

    def check(self, store: Store) -> None:
        """Raise what another rank has stopped with."""
        if self._round is None:
            return
        for rank in range(1, self.rank.world_size):
            _raise_note(_note(store, self._round.token, rank), rank)

    def wait_for_shards(self, store: Store, plans: Sequence[ShardPlan]) -> None:
        """Wait until every planned shard is there."""
        if self._round is None:
            return
        now = time.monotonic()
        last_s = dict.fromkeys(range(self.rank.world_size), now)
        before: dict[int, int] = {}
        while left := self._left(store, plans):
            self.check(store)
            for rank, n_left in left.items():
                if n_left != before.get(rank) or _is_alive(_lock(store, self._round.token, rank)):
                    last_s[rank] = time.monotonic()
            lost = [rank for rank in left if time.monotonic() - last_s[rank] > self._wait_s]
            if lost:
                raise self._lost(store, lost, sum(left.values()), len(plans))
            before = left
            time.sleep(POLL_S)

    def next_round(self, store: Store, seen: frozenset[str]) -> Round | None:
        """Wait for a plan to take a share of."""
        last_s = time.monotonic()
        while shard_files(store) == seen:
            found = _read(_announcement(store))
            if found is not None and found.token not in self._served and self._is_ours(found):
                if set(self.unreadable) <= set(found.unreadable):
                    if self.unreadable != found.unreadable:
                        raise LeaveOutError(found.unreadable)
                    return found
                self._served.add(found.token)
                _tell(_note(store, found.token, self.rank.rank), UnreadableTilesError(self._bad))
            if _is_alive(store.lock_path):
                last_s = time.monotonic()
            if time.monotonic() - last_s > self._wait_s:
                raise UserError(
                    f"{self.rank} has waited {self._wait_s:.0f} s for rank 0, which plans and waits for all: it has "
                    "not started, or has stopped",
                    value=store.folder,
                    fix="see what it says, then run the same command again: finished shards are kept",
                )
            time.sleep(POLL_S)
        return None

    @contextmanager
    def serving(self, store: Store, found: Round) -> Iterator[None]:
        """Show that this rank works on a plan, and tell its leader what stops it."""
        self._served.add(found.token)
        with lock(_lock(store, found.token, self.rank.rank), timeout_s=self._wait_s):
            try:
                yield
            except UserError as error:
                _tell(_note(store, found.token, self.rank.rank), error)
                raise

    def _is_ours(self, found: Round) -> bool:
        return (found.world_size, found.tiles) == (self.rank.world_size, self._tiles)

    def _left(self, store: Store, plans: Sequence[ShardPlan]) -> dict[int, int]:
        """Return the number of missing shards by rank."""
        left: dict[int, int] = {}
        for place, plan in enumerate(plans):
            if not (store.folder / "shards" / f"{plan.name}.json").is_file():
                rank = place % self.rank.world_size
                left[rank] = left.get(rank, 0) + 1
        return left

    def _lost(self, store: Store, lost: Sequence[int], n_left: int, n_planned: int) -> UserError:
        who = f"rank {lost[0]}" if len(lost) == 1 else f"ranks {', '.join(map(str, lost))}"
        return UserError(
            f"{who} of {self.rank.world_size} gave no sign of life for {self._wait_s:.0f} s; {n_left} of {n_planned} "
            "planned shards are missing",
            value=store.folder,
            fix="see what stopped it, then run the same command again, in as many processes as you like: finished "
            "shards are kept",
        )


def shard_files(store: Store) -> frozenset[str]:
    """Return the names of files among the shards, a cheap way to see that something has changed."""
    try:
        return frozenset(path.name for path in (store.folder / "shards").iterdir())
    except FileNotFoundError:
        return frozenset()


def _announcement(store: Store) -> Path:
    return store.folder / "ranks" / "plan.json"


def _note(store: Store, token: str, rank: int) -> Path:
    return store.folder / "ranks" / f"{token}-{rank}.json"


def _lock(store: Store, token: str, rank: int) -> Path:
    return store.folder / "ranks" / f"{token}-{rank}.lock"


def _clear(store: Store) -> None:
    """Remove what ranks have left, but no lock that one holds."""
    for path in owned_in(store.folder, "ranks"):
        if path.suffix != ".lock" or not is_locked(path):
            path.unlink(missing_ok=True)


def _is_alive(path: Path) -> bool:
    if not is_locked(path):
        return False
    time.sleep(AGAIN_S)
    return is_locked(path)


def _read(path: Path) -> Round | None:
    """Read an announcement; None where there is none."""
    try:
        data = read_json(path)
        return Round(**{**data, "shards": tuple(data["shards"]), "unreadable": dict(data["unreadable"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tell(path: Path, error: UserError) -> None:
    """Leave a note about what stops this rank; where it can't be written, the leader learns it by waiting."""
    bad = error.tiles if isinstance(error, UnreadableTilesError) else ()
    tiles = [{"path": str(tile.source.path), "row": tile.source.row, "error": _facts(tile.error)} for tile in bad]
    complete = isinstance(error, UnreadableTilesError) and error.complete
    with suppress(UserError, OSError):
        write_json(path, {"what": str(error), "tiles": tiles, "complete": complete})


def _facts(error: UserError) -> dict[str, object]:
    value = None if error.value is None else str(error.value)
    return {"what": error.what, "value": value, "allowed": error.allowed, "closest": error.closest, "fix": error.fix}


def _raise_note(path: Path, rank: int) -> None:
    try:
        data = read_json(path)
    except (OSError, ValueError):
        return
    if data["tiles"]:
        tiles = [
            UnreadableTile(PixelSource(Path(tile["path"]), tile["row"]), _error(tile["error"]))
            for tile in data["tiles"]
        ]
        raise UnreadableTilesError(tiles, complete=data["complete"])
    raise UserError(f"rank {rank} has stopped: {data['what']}")


def _error(facts: Mapping[str, str | None]) -> UserError:
    value, allowed, closest = facts["value"], facts["allowed"], facts["closest"]
    return UserError(str(facts["what"]), value=value, allowed=allowed, closest=closest, fix=facts["fix"])
