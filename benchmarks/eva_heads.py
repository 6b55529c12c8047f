"""eva's heads against kaiko-eva itself on the same embeddings: how much faster, and how equal.

Needs a Python with kaiko-eva, named by ``HISTOTUNE_BENCH_EVA_PYTHON``; ``peers/eva_head.py`` runs in it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.harness import Claim, Part, Result, cores, measured, missing_hardware, not_measured
from histotune.heads.config import Stopping
from histotune.heads.sgd.jobs import TrainData, TrainJob, TrainOptions, TrainSplit
from histotune.heads.sgd.steps import linear_layers, shuffled_order
from histotune.heads.sgd.train import head_logits, train_heads
from histotune.published.eva import eva_settings
from histotune.published.protocols import EvaConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.heads.sgd.jobs import TrainedHead

N_CORES, N_RUNS, REPEATS = 2, 5, 7
N_TRAIN, N_VALID, DIM, N_CLASSES = 1132, 339, 1536, 4
SHIFT = 0.06  # balanced accuracy near 0.71
FULL_STEPS, OUR_STEPS, PEER_STEPS = 12_500, 1000, 50
SHORT_STEPS, SHORT_PATIENCE, N_SEEDS = 500, 10, 20
METRIC: Final = "balanced_accuracy"
VARIABLE = "HISTOTUNE_BENCH_EVA_PYTHON"
INSTALL = (
    "kaiko-eva is not at hand: python -m venv EVA && EVA/bin/pip install 'kaiko-eva[vision]==0.4.5' "
    f"'jsonargparse[omegaconf]==4.40.0', then {VARIABLE}=EVA/bin/python"
)
SETTING = f"{N_TRAIN:,} train and {N_VALID} valid tiles as in eva's BreakHis, {DIM:,} columns, {N_CLASSES} classes"
SPEED = Claim(
    "eva_heads_speed",
    "one head of eva's BreakHis protocol (five runs of 12,500 steps) against kaiko-eva 0.4.5 itself, on 2 cores",
    "x",
    100.0,
    "at least",
    f"{SETTING}, synthetic. Peer: its trainer and head module reading its own embedding files with four workers, as "
    f"its configuration does; segments of {PEER_STEPS} steps, validation of their epochs included, start-up and a "
    f"first segment left out. Ours: all five runs together over {OUR_STEPS:,} steps. Both are extrapolated to "
    f"{FULL_STEPS:,} steps of five runs; in turns, median of {REPEATS}.",
)
LOGITS = Claim(
    "eva_heads_logits",
    "largest difference of validation logits from kaiko-eva 0.4.5's after 1, 100 and the last step",
    "logits",
    1e-4,
    "at most",
    f"{SETTING}; the same embeddings, initial weights and batch order, fp32; both stop early (patience "
    f"{SHORT_PATIENCE} epochs) and must stop after the same step with the same balanced accuracy, or there is no "
    "value. Three seeds.",
)
SCORES = Claim(
    "eva_heads_scores",
    "farthest end of the 90 % interval of the mean score's difference from kaiko-eva 0.4.5's, own batch orders",
    "points",
    0.5,
    "at most",
    f"{SETTING}; {N_SEEDS} seeds in pairs of the same initial weights, each with batch orders of its own; "
    f"at most {SHORT_STEPS} steps, patience {SHORT_PATIENCE} epochs; best balanced accuracy in points; paired t "
    "interval.",
)


@dataclass(frozen=True)
class Cohort:
    """Synthetic embeddings in the shape of eva's BreakHis."""

    x_ND: NDArray[np.float32]
    y_N: NDArray[np.int64]

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the parts under the names that the peer's driver reads."""
        return {"x_train": self.x_ND[:N_TRAIN], "y_train": self.y_N[:N_TRAIN], "x_val": self.x_ND[N_TRAIN:],
                "y_val": self.y_N[N_TRAIN:]}  # fmt: skip

    def train_data(self) -> TrainData:
        """Return the parts as our loop reads them."""
        split = TrainSplit(np.arange(N_TRAIN), np.arange(N_TRAIN, N_TRAIN + N_VALID))
        return TrainData(self.x_ND, self.y_N, N_CLASSES, (split,), standardise=False)


def measure() -> tuple[Result, ...]:
    """Compare with the peer, or say what is missing."""
    python = os.environ.get(VARIABLE, "")
    lacking = missing_hardware(n_cpus=N_CORES) or ("" if python and Path(python).is_file() else INSTALL)
    if lacking:
        return tuple(not_measured(claim, lacking) for claim in (SPEED, LOGITS, SCORES))
    cohort = _cohort()
    with tempfile.TemporaryDirectory(prefix="histotune-eva-") as name, cores(N_CORES):
        peer = Peer(Path(python), Path(name), cohort)
        return _speed(peer), _logits(peer), _scores(peer)


class Peer:
    """kaiko-eva in its own environment."""

    def __init__(self, python: Path, folder: Path, cohort: Cohort) -> None:
        self.cohort = cohort
        self._python, self._folder = python, folder

    def segments(self, n_steps: int, repeats: int) -> Iterator[float]:
        """Train in segments and wait between them.

        Args:
            n_steps: Steps of a segment.
            repeats: Segments after a first one.

        Yields:
            Seconds of each segment; the peer goes on when the next one is asked for.
        """
        steps = n_steps * (repeats + 1)
        command = self._command("speed", max_steps=steps, patience=FULL_STEPS, segment_steps=n_steps)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as peer:
            assert peer.stdin is not None
            assert peer.stdout is not None
            found = 0
            for line in peer.stdout:
                if not line.startswith("segment "):
                    continue
                if found:
                    yield float(line.split()[1])
                found += 1
                peer.stdin.write("\n")
                peer.stdin.flush()
        if found != repeats + 1:
            raise RuntimeError(f"kaiko-eva trained {found} of {repeats + 1} segments")

    def run(self, mode: str, **given: object) -> dict[str, NDArray[np.generic]]:
        """Run the driver once and read what it found.

        Args:
            mode: ``speed``, ``given`` or ``seeds``.
            **given: Further arrays and numbers that it reads.
        """
        done = subprocess.run(self._command(mode, **given), check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"kaiko-eva failed: {done.stderr[-2000:]}")
        with np.load(self._folder / "out.npz") as found:
            return dict(found)

    def _command(self, mode: str, **given: object) -> list[str]:
        """Write what the driver reads, and return its command."""
        source, out = self._folder / "in.npz", self._folder / "out.npz"
        np.savez(source, **self.cohort.arrays(), **given)  # type: ignore[arg-type]
        driver = Path(__file__).parent / "peers" / "eva_head.py"
        return [str(self._python), str(driver), str(source), str(out), mode]


def _cohort() -> Cohort:
    rng = np.random.default_rng(0)
    y_N = rng.integers(0, N_CLASSES, N_TRAIN + N_VALID)
    mean_KD = rng.normal(0.0, SHIFT, (N_CLASSES, DIM))
    return Cohort((mean_KD[y_N] + rng.standard_normal((len(y_N), DIM))).astype(np.float32), y_N)


def _train(
    cohort: Cohort, seeds: list[int], max_steps: int, patience: int | None, *, keep_last: bool = False
) -> list[TrainedHead]:
    settings = eva_settings(EvaConfig(max_steps=max_steps), one_logit=False)
    stopping = Stopping() if keep_last else Stopping(monitor=METRIC, patience=patience)
    options = TrainOptions(metrics=(METRIC,), stopping=stopping)
    return train_heads(cohort.train_data(), [TrainJob(settings, 0, seed) for seed in seeds], options)


def _speed(peer: Peer) -> Result:
    seeds = list(range(N_RUNS))
    _train(peer.cohort, seeds, 100, None)
    theirs, ours = [], []
    for segment_s in peer.segments(PEER_STEPS, REPEATS):
        theirs.append(segment_s * FULL_STEPS * N_RUNS / PEER_STEPS)
        start = time.perf_counter()
        _train(peer.cohort, seeds, OUR_STEPS, FULL_STEPS)
        ours.append((time.perf_counter() - start) * FULL_STEPS / OUR_STEPS)
    parts = (Part("kaiko-eva, s for five runs", float(np.median(theirs))), Part("ours, s", float(np.median(ours))))
    return measured(SPEED, [peer_s / our_s for peer_s, our_s in zip(theirs, ours, strict=True)], parts, threads=N_CORES)


def _logits(peer: Peer) -> Result:
    differences = []
    for seed in range(3):
        settings = eva_settings(EvaConfig(max_steps=SHORT_STEPS), one_logit=False)
        (layer,) = linear_layers(TrainJob(settings, 0, seed), DIM, N_CLASSES)
        order_EN = np.stack([shuffled_order(seed, epoch, N_TRAIN) for epoch in range(SHORT_STEPS)])
        found = peer.run("given", weight=layer.weight_OI, bias=layer.bias_O, order_EN=order_EN, max_steps=SHORT_STEPS,
                         patience=SHORT_PATIENCE)  # fmt: skip
        (stopped,) = _train(peer.cohort, [seed], SHORT_STEPS, SHORT_PATIENCE)
        score = float(stopped.curve(METRIC).max())
        if stopped.n_steps != int(found["n_steps"]) or abs(score - float(found["score"])) > 1e-6:
            peer_words = f"kaiko-eva after {found['n_steps']} at {found['score']}"
            raise RuntimeError(f"stopped after {stopped.n_steps} steps at {score}, {peer_words}")
        x_val = peer.cohort.x_ND[N_TRAIN:]
        for steps, name in ((1, "logits_1"), (100, "logits_100"), (stopped.n_steps, "logits_last")):
            (head,) = _train(peer.cohort, [seed], steps, None, keep_last=True)
            theirs_NK = np.asarray(found[name], np.float64)
            differences.append(float(np.abs(head_logits(head, x_val) - theirs_NK).max()))
    return measured(LOGITS, [max(differences[3 * seed : 3 * seed + 3]) for seed in range(3)], threads=N_CORES)


def _scores(peer: Peer) -> Result:
    from scipy import stats

    seeds = list(range(N_SEEDS))
    settings = eva_settings(EvaConfig(max_steps=SHORT_STEPS), one_logit=False)
    layers = [linear_layers(TrainJob(settings, 0, seed), DIM, N_CLASSES)[0] for seed in seeds]
    found = peer.run(
        "seeds", seeds=np.array(seeds), weight_SKD=np.stack([layer.weight_OI for layer in layers]),
        bias_SK=np.stack([layer.bias_O for layer in layers]), max_steps=SHORT_STEPS, patience=SHORT_PATIENCE,
    )  # fmt: skip
    theirs = 100.0 * np.asarray(found["scores"], dtype=np.float64)
    trained = _train(peer.cohort, seeds, SHORT_STEPS, SHORT_PATIENCE)
    ours = np.array([100.0 * head.curve(METRIC).max() for head in trained])
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.90)
    parts = (
        Part("ours, mean", float(ours.mean())), Part("kaiko-eva, mean", float(theirs.mean())),
        Part("interval, low", float(interval.low)), Part("interval, high", float(interval.high)),
    )  # fmt: skip
    return measured(SCORES, [max(abs(float(interval.low)), abs(float(interval.high)))], parts, threads=N_CORES)
