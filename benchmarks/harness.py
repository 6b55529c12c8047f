"""How claims are measured, judged and recorded.

A claim has a target and a direction. A script measures it: warm-up, then at least five repeats in which the arms take
turns, so that a slow minute of the machine hits both alike. The median and the spread are kept. Whether the claim is
met is computed from value and target, when a result is written and again when it is read; nobody types it. A claim may
ask for more: that the 95 % bound of the median holds the target too.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from histotune.tools import provenance
from histotune.tools.devices import find_device
from histotune.tools.files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RESULTS = Path(__file__).parent / "results"
MIN_REPEATS = 5
BOUND_REPEATS = 7  # claims judged by the bound need so many
CONFIDENCE = 0.95
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
Met = bool | Literal["not measured"]


@dataclass(frozen=True)
class Claim:
    """What is promised.

    Attributes:
        name: File name of the result.
        statement: The promise in one line, without the number.
        unit: Unit of value and target.
        target: The number to hold.
        direction: Whether the value must be at most or at least the target.
        method: How it is measured, in one or two sentences.
        by_bound: Whether the one-sided 95 % bound of the median must hold the target as well.
    """

    name: str
    statement: str
    unit: str
    target: float
    direction: Literal["at most", "at least"]
    method: str
    by_bound: bool = False

    def is_met(self, value: float) -> bool:
        """Return whether a measured value holds the target; NaN never does.

        Args:
            value: In the claim's unit.

        Returns:
            The verdict.
        """
        return value <= self.target if self.direction == "at most" else value >= self.target


@dataclass(frozen=True)
class Part:
    """A named part of a value, in the claim's unit: a stage, or an arm."""

    name: str
    value: float


@dataclass(frozen=True)
class Result:
    """What was measured for a claim, or why it was not.

    Attributes:
        claim: The promise.
        value: The median, or None where it was not measured.
        samples: Every repeat, in the order measured.
        reason: Why it was not measured; empty otherwise.
        parts: Stages or arms, in their own order.
        threads: Threads every arm ran on; 0 where the machine's own default was left.
        machine: Hardware, without the machine's name.
        versions: Installed versions.
        date: Day of the measurement, UTC.
    """

    claim: Claim
    value: float | None
    samples: tuple[float, ...] = ()
    reason: str = ""
    parts: tuple[Part, ...] = ()
    threads: int = 0
    machine: dict[str, str | int | float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def bound(self) -> float | None:
        """The 95 % bound of the median, towards the side on which the claim fails; None unless judged by it."""
        return median_bound(self.samples, self.claim.direction) if self.claim.by_bound else None

    @property
    def met(self) -> Met:
        """The verdict, computed."""
        if self.value is None:
            return "not measured"
        held = not self.claim.by_bound or (self.bound is not None and self.claim.is_met(self.bound))
        return held and self.claim.is_met(self.value)

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict."""
        claim = self.claim
        return {
            "claim": claim.name,
            "statement": claim.statement,
            "value": self.value,
            "unit": claim.unit,
            "target": claim.target,
            "direction": claim.direction,
            "met": self.met,
            "by_bound": claim.by_bound,
            "bound": self.bound,
            "method": claim.method,
            "spread": [min(self.samples), max(self.samples)] if self.samples else None,
            "repeats": len(self.samples),
            "samples": list(self.samples),
            "parts": [asdict(part) for part in self.parts],
            "threads": self.threads,
            "reason": self.reason,
            "machine": self.machine,
            "versions": self.versions,
            "date": self.date,
        }


@dataclass(frozen=True)
class Arm:
    """One way to do the work: ours, or the peer's.

    Attributes:
        name: Shown in the parts of the result.
        run: Does the work once.
        prepare: Untimed, before each run, such as emptying a cache.
    """

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


def median_bound(samples: Sequence[float], direction: Literal["at most", "at least"]) -> float | None:
    """Return the one-sided 95 % confidence bound of the median, whatever the distribution.

    Of n independent samples each falls below the median with probability 1/2. The k-th smallest lies above the median
    only where fewer than k do, so it is a lower bound with confidence 1 - P(Binomial(n, 1/2) < k) (David and Nagaraja,
    Order Statistics, section 7.1). The largest such k is taken: the smallest sample itself for 7 samples (confidence
    99.2 %, the second smallest would have 93.8 %), the second smallest for 8, the third for 11.

    Args:
        samples: The repeats.
        direction: ``at least`` asks for the lower bound, ``at most`` for the upper one.

    Returns:
        One of the samples; None for fewer than five, whose extremes are no such bound.

    Example:
        >>> median_bound([0.97, 0.99, 0.95, 0.98, 0.96, 0.94, 1.0], "at least")
        0.94
    """
    n, below, rank = len(samples), 0.0, 0
    while rank < n and (below := below + math.comb(n, rank) / 2**n) <= 1 - CONFIDENCE:
        rank += 1
    return None if rank == 0 else sorted(samples, reverse=direction == "at most")[rank - 1]


def alternate(
    arms: Sequence[Arm], repeats: int = MIN_REPEATS, warmups: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, tuple[float, ...]]:
    """Time the arms in turns: a, b, a, b, ...; warm-up rounds first, which are not kept.

    Args:
        arms: What is compared; one arm is fine.
        repeats: Rounds that count, at least five.
        warmups: Rounds before them, at least one.
        clock: Seconds.

    Returns:
        Seconds per round, by arm.

    Raises:
        ValueError: Too few rounds, or two arms of one name.
    """
    if repeats < MIN_REPEATS or warmups < 1:
        raise ValueError(f"at least {MIN_REPEATS} repeats and one warm-up, not {repeats} and {warmups}")
    if len({arm.name for arm in arms}) != len(arms):
        raise ValueError("two arms have the same name")
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for round_number in range(warmups + repeats):
        for arm in arms:
            arm.prepare()
            start = clock()
            arm.run()
            elapsed = clock() - start
            if round_number >= warmups:
                seconds[arm.name].append(elapsed)
    return {name: tuple(values) for name, values in seconds.items()}


def ratios(seconds: dict[str, tuple[float, ...]], peer: str, ours: str) -> tuple[float, ...]:
    """Return how many times faster our arm was, round by round.

    Args:
        seconds: From :func:`alternate`.
        peer: Name of the peer's arm.
        ours: Name of our arm.

    Returns:
        Peer's seconds over ours, per round.
    """
    return tuple(theirs / own for theirs, own in zip(seconds[peer], seconds[ours], strict=True))


def measured(claim: Claim, samples: Sequence[float], parts: Sequence[Part] = (), threads: int = 0) -> Result:
    """Return the result of repeated measurements: their median is the value.

    Args:
        claim: The promise.
        samples: One value per repeat, in the claim's unit.
        parts: Named parts of the value.
        threads: Threads every arm ran on; 0 for the machine's default.

    Returns:
        The result with this machine and today's date.

    Raises:
        ValueError: A sample is not a finite number, or there are too few for a claim that is judged by the bound.
    """
    if claim.by_bound and len(samples) < BOUND_REPEATS:
        raise ValueError(f"{claim.name}: at least {BOUND_REPEATS} repeats, not {len(samples)}")
    if not samples or not all(math.isfinite(sample) for sample in samples):
        raise ValueError(f"{claim.name}: the samples are no measurement: {list(samples)}")
    return _on_this_machine(claim, statistics.median(samples), tuple(samples), "", tuple(parts), threads)


def not_measured(claim: Claim, reason: str) -> Result:
    """Return a result without a value.

    Args:
        claim: The promise.
        reason: What is missing here.

    Returns:
        The result, its verdict "not measured".
    """
    return _on_this_machine(claim, None, (), reason, (), 0)


def missing_hardware(n_cpus: int = 1, gpu: str = "") -> str:
    """Return what this machine lacks, or an empty text.

    Args:
        n_cpus: Cores the claim speaks of.
        gpu: Part of the GPU's name the claim speaks of, such as "T4"; empty where none is needed.

    Returns:
        One sentence.
    """
    if provenance.cpu_count() < n_cpus:
        return f"needs {n_cpus} cores; this process may use {provenance.cpu_count()}"
    device = find_device()
    if gpu and (device.kind != "cuda" or gpu not in device.name):
        return f"needs a {gpu} GPU; found {device.name}"
    return ""


@contextmanager
def cores(number: int) -> Iterator[None]:
    """Hold this process and those it starts to some of the machine's cores, where the system allows it (Linux).

    Args:
        number: How many.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def child_environment(folder: Path, threads: int = 0) -> dict[str, str]:
    """Return the environment of a measured process: user folders of its own, and a fixed number of threads.

    Args:
        folder: Takes caches and the test ledger, so that a measurement never counts as a scoring of the user's.
        threads: Compute threads; 0 leaves the libraries' choice.

    Returns:
        A full environment for ``subprocess``.
    """
    own = {"XDG_CACHE_HOME": str(folder / "cache-home"), "XDG_STATE_HOME": str(folder / "state-home")}
    limits = dict.fromkeys(THREAD_VARIABLES, str(threads)) if threads else {}
    return {**os.environ, **own, **limits}


def save(result: Result, folder: Path = RESULTS) -> Path:
    """Write a result atomically to ``folder/CLAIM.json``.

    Args:
        result: What was measured.
        folder: The results folder.

    Returns:
        The file's path.
    """
    path = folder / f"{result.claim.name}.json"
    write_json(path, result.as_dict())
    return path


def load(path: Path) -> Result:
    """Read a recorded result; verdict and bound are computed anew from samples, value and target.

    Args:
        path: Written by :func:`save`.

    Returns:
        The result.

    Raises:
        ValueError: The file's verdict or bound is not what its numbers say.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    claim = Claim(
        data["claim"], data["statement"], data["unit"], data["target"], data["direction"], data["method"],
        by_bound=data.get("by_bound", False),  # results recorded before there were bounds
    )  # fmt: skip
    result = Result(
        claim, data["value"], tuple(data["samples"]), data["reason"],
        tuple(Part(part["name"], part["value"]) for part in data["parts"]), data["threads"],
        data["machine"], data["versions"], data["date"],
    )  # fmt: skip
    if result.met != data["met"]:
        raise ValueError(f"{path.name} says met: {data['met']}, its numbers say {result.met}")
    if result.bound != data.get("bound"):
        raise ValueError(f"{path.name} says bound: {data.get('bound')}, its numbers say {result.bound}")
    return result


def _on_this_machine(
    claim: Claim, value: float | None, samples: tuple[float, ...], reason: str, parts: tuple[Part, ...], threads: int
) -> Result:
    record = provenance.collect_provenance()
    machine: dict[str, str | int | float] = {
        "platform": record.platform, "cpu": record.cpu, "n_cpus": record.n_cpus, "memory_gib": record.memory_gib,
        "device": find_device().name,
    }  # fmt: skip
    versions = {"python": record.python, **record.versions}
    today = datetime.now(UTC).date().isoformat()
    return Result(claim, value, samples, reason, parts, threads, machine, versions, today)


def histotune_program() -> str:
    """Return the path of the installed command beside this interpreter."""
    name = "histotune.exe" if sys.platform == "win32" else "histotune"
    return str(Path(sys.executable).with_name(name))
