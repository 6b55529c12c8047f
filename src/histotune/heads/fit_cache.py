"""Solved fits, kept: a sweep that was interrupted, or is run again, reads what it has solved already.

The unit is one call of a solver: all penalties, folds and training sets of one pooling. Its key is a hash over every
byte that decides the result (matrix, labels, masks, penalties, settings, the solver's own code), so that a changed
label, fold or setting misses, and nothing needs to be told when to forget. A call's result never depends on what else
is kept.
"""

# N tiles, D columns, F training masks, P problems

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.embeddings.upkeep import FITS_FOLDER, MOST_FIT_BYTES, fits_room
from histotune.heads.solver.logistic import fit_batch
from histotune.heads.solver.problems import FitSettings, FitSolution
from histotune.heads.solver.ridge import fit_ridge
from histotune.tools.atomic import atomic_path, unfinished_name
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, hash_json, is_regular_file
from histotune.tools.provenance import cpu_count, library_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from histotune.heads.solver.problems import FitProblems

LOG = logging.getLogger(__name__)
FORMAT = "histotune-fits-1"
OWN_NAME = re.compile(r"[0-9a-f]{40}\.safetensors")
BLOCK_BYTES = 16 * 2**20
DEFAULT_MAX_BYTES = MOST_FIT_BYTES
ABANDONED_S = 3600.0
"""Half-written files older than this were left by a killed process."""


@dataclass(frozen=True)
class FitCache:
    """A folder of solved fits; the least recently used go first once it is full.

    Attributes:
        folder: Where they lie; None keeps nothing.
        max_bytes: Room they may take; a single result larger than this is not kept.
    """

    folder: Path | None = None
    max_bytes: int = DEFAULT_MAX_BYTES

    @classmethod
    def at(cls, cache: Path) -> FitCache:
        """Return the fits of a cache's root folder, with room for as much as its embeddings, within bounds."""
        return cls(cache / FITS_FOLDER, fits_room(cache))

    def fit_batch(
        self, x_ND: NDArray[np.floating], y_N: NDArray[np.int64], problems: FitProblems, settings: FitSettings
    ) -> FitSolution:
        """Solve logistic problems as :func:`~histotune.heads.solver.logistic.fit_batch` does, or read what it gave.

        Args:
            x_ND: Raw columns.
            y_N: Labels.
            problems: Masks and penalties.
            settings: When to stop.

        Returns:
            The solution, the same bytes whether solved or read.
        """
        facts = {"solver": "logistic", "n_classes": problems.n_classes, **asdict(settings)}
        return self._solution(x_ND, y_N, problems, facts, lambda: fit_batch(x_ND, y_N, problems, settings))

    def fit_ridge(self, x_ND: NDArray[np.floating], y_N: NDArray[np.int64], problems: FitProblems) -> FitSolution:
        """Solve ridge problems as :func:`~histotune.heads.solver.ridge.fit_ridge` does, or read the same solution.

        Args:
            x_ND: Raw columns.
            y_N: Labels.
            problems: Masks and penalties.

        Returns:
            The solution, the same bytes whether solved or read.
        """
        facts = {"solver": "ridge", "n_classes": problems.n_classes}
        return self._solution(x_ND, y_N, problems, facts, lambda: fit_ridge(x_ND, y_N, problems))

    def _solution(
        self,
        x_ND: NDArray[np.floating],
        y_N: NDArray[np.int64],
        problems: FitProblems,
        facts: Mapping[str, object],
        solve: Callable[[], FitSolution],
    ) -> FitSolution:
        found: dict[str, Any] = self.recall(inputs_of(x_ND, y_N, problems), facts, lambda: vars(solve()))
        return FitSolution(**{**found, "passes": int(np.asarray(found["passes"]).item())})

    def recall(
        self,
        inputs: Mapping[str, NDArray[np.generic]],
        facts: Mapping[str, object],
        solve: Callable[[], Mapping[str, NDArray[np.generic]]],
    ) -> dict[str, NDArray[np.generic]]:
        """Return what ``solve`` returns for these inputs, read where it is kept.

        Args:
            inputs: Every array that decides the result.
            facts: Everything else that decides it, JSON-ready: the solver's name and settings.
            solve: Computes the result; only called where it is not kept.

        Returns:
            Arrays by name.
        """
        if self.folder is None:
            return dict(solve())
        key = fit_key(inputs, facts)
        path = self.folder / f"{key[:40]}.safetensors"
        kept = _read(path, key)
        if kept is None:
            kept = {name: np.ascontiguousarray(values) for name, values in solve().items()}
            self._keep(path, key, kept)
        return kept

    def _keep(self, path: Path, key: str, arrays: dict[str, NDArray[np.generic]]) -> None:
        """Write a result; a cache that can't be written costs time, never the sweep."""
        n_bytes = sum(values.nbytes for values in arrays.values())
        if n_bytes > self.max_bytes:
            return
        from safetensors.numpy import save

        try:
            _make_room(path.parent, self.max_bytes - n_bytes)
            with atomic_path(path) as temporary:
                temporary.write_bytes(save(arrays, {"format": FORMAT, "key": key, "sha256": _content_hash(arrays)}))
        except Exception as error:  # whatever it is, the fits are here
            what = error.what if isinstance(error, UserError) else str(error)
            _say_once(path.parent, f"solved fits are not kept, so an interrupted sweep starts anew ({what})")


def inputs_of(
    x_ND: NDArray[np.floating], y_N: NDArray[np.int64], problems: FitProblems
) -> dict[str, NDArray[np.generic]]:
    """Return every array that decides the solution of problems, by name."""
    inputs: dict[str, NDArray[np.generic]] = {
        "x_ND": x_ND,
        "y_N": np.asarray(y_N, np.int64),
        "mask_FN": np.asarray(problems.mask_FN),
        "mask_index_P": np.asarray(problems.mask_index_P, np.int64),
        "penalty_P": np.asarray(problems.penalty_P, np.float64),
    }
    if problems.columns_index_P is not None:
        inputs["columns_index_P"] = np.asarray(problems.columns_index_P, np.int64)
    return inputs | {f"columns {number}": np.asarray(one, np.int64) for number, one in enumerate(problems.columns)}


def fit_key(inputs: Mapping[str, NDArray[np.generic]], facts: Mapping[str, object]) -> str:
    """Return the key of a solver's call."""
    arrays = [hash_bytes(name, hash_array(inputs[name])) for name in sorted(inputs)]
    return hash_bytes(FORMAT, *arrays, hash_json(dict(facts)), library_version("numpy"), code_hash())


def hash_array(values: NDArray[np.generic]) -> str:
    """Return a hash over an array's type, shape and values, in blocks of rows side by side."""
    rows = max(1, BLOCK_BYTES // max(1, values.nbytes // max(1, len(values)))) if values.ndim else 1
    parts = [values] if values.ndim == 0 else [values[start : start + rows] for start in range(0, len(values), rows)]
    if len(parts) > 1:
        with ThreadPoolExecutor(cpu_count(), thread_name_prefix="hash") as pool:
            digests = list(pool.map(_hash_block, parts))
    else:
        digests = [_hash_block(part) for part in parts]
    return hash_bytes(values.dtype.str, str(values.shape), *digests)


def code_hash() -> str:
    """Return a hash over the source of this room: whatever changes in it, old fits are not read."""
    return hash_bytes(*(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py"))))


def _hash_block(values: NDArray[np.generic]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest() if values.size else ""


def _content_hash(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    return hash_bytes(*(hash_bytes(name, hash_array(arrays[name])) for name in sorted(arrays)))


def _read(path: Path, key: str) -> dict[str, NDArray[np.generic]] | None:
    """Read a result after checking every byte; None where there is none or it is damaged."""
    if not path.is_file():
        return None
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        if facts.get("format") == FORMAT and facts.get("key") == key and facts.get("sha256") == _content_hash(arrays):
            with suppress(OSError):
                os.utime(path)  # the least recently used go first
            return arrays
    except Exception as error:  # whatever it is, they can be solved again
        LOG.debug("%s: %s", path, error)
    LOG.warning("kept fits are damaged and are solved again: %s", path)
    return None


@cache
def _say_once(folder: Path, what: str) -> None:
    """Warn once, although each of a thousand fits may fail in the same way."""
    LOG.warning("%s: %s", what, folder)


def _make_room(folder: Path, max_bytes: int) -> None:
    """Remove what killed processes left and, oldest use first, what does not fit any more."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for path in folder.iterdir():
        with suppress(OSError):
            facts = path.stat()
            if OWN_NAME.fullmatch(unfinished_name(path) or path.name) is None or not is_regular_file(path):
                continue  # somebody else's file: it is neither counted nor removed
            if path.suffix == ".partial" and time.time() - facts.st_mtime > ABANDONED_S:
                path.unlink()
            elif path.suffix == ".safetensors":
                found.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= max_bytes:
            break
        with suppress(OSError):
            path.unlink()
            total -= size
