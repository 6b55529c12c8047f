"""Whether a lower precision changes what an embedding says: measured on the data's own tiles, never assumed.

Cosine similarity hides the answer: embeddings share a large common mean, so that two of different tiles are alike to
0.99 anyway. What a head sees is how tiles differ, so the error of every dimension is held against that dimension's own
spread between tiles.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.tools.devices import Computed, choose_precision
from histotune.tools.errors import UserError
from histotune.tools.files import lock, read_json, unsealed, write_sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.embeddings.row_keys import Rows
    from histotune.embeddings.space import EmbedRequest, Storage
    from histotune.images.decode import PixelReader
    from histotune.images.hashes import HashIndex
    from histotune.images.loader import Views, Wanted
    from histotune.tools.devices import ComputeDevice

    Float = NDArray[np.float64]

# N tiles, D columns, n tiles of a half, T random targets


MEDIAN_LIMIT, P99_LIMIT = 0.01, 0.05
PROBE_LIMIT = 0.005
"""Of a probe's scores' spread. The AUROC of n tiles moves by 0.7 to 3 times the error over sqrt(n) (docs/log.md): 0.005
keeps it below 1e-3 from 400 tiles on."""
MIN_TILES, CHECK_TILES, WISH_TILES, PROBE_TILES = 16, 64, 16, 128


@dataclass(frozen=True)
class PrecisionCheck:
    """How far a precision is from fp32 on some tiles.

    Attributes:
        precision: What was tried.
        n_tiles: Tiles it was tried on.
        median_error: Median over dimensions of RMS error over between-tile standard deviation.
        p99_error: 99th percentile of the same.
        probe_error: RMS change of a probe's scores over their spread between tiles.
        passed: Whether all are within the limits.
    """

    precision: Computed
    n_tiles: int
    median_error: float
    p99_error: float
    probe_error: float
    passed: bool

    def __str__(self) -> str:
        """Return the sentence that logs and reports print."""
        verdict = "kept" if self.passed else "refused"
        return (
            f"{self.precision} {verdict}: on {self.n_tiles} tiles the error is {self.median_error:.2g} of a dimension's"
            f" spread (median; 99th percentile {self.p99_error:.2g}; allowed {MEDIAN_LIMIT:g} and {P99_LIMIT:g}) and"
            f" {self.probe_error:.2g} of a probe's scores' spread (allowed {PROBE_LIMIT:g})"
        )


@dataclass(frozen=True)
class PrecisionChoice:
    """Which precision embeds, and why.

    Attributes:
        precision: The choice.
        checks: What was tried, in order.
        reason: One sentence.
    """

    precision: Computed
    checks: tuple[PrecisionCheck, ...]
    reason: str


def candidates(device: ComputeDevice) -> tuple[Computed, ...]:
    """Return the precisions worth trying on a device, fastest first; fp32 always ends the list."""
    half: list[Computed] = ["bf16"] if device.fast_bf16 else []
    if device.kind == "cuda" and float(device.capability) >= 7.0:
        half.append("fp16")
    return (*half, "fp32")


def compare_precision(
    precision: Computed, reference_ND: NDArray[np.floating], candidate_ND: NDArray[np.floating]
) -> PrecisionCheck:
    """Hold the error of every dimension, and of a probe's scores, against their spread between tiles."""
    if reference_ND.shape != candidate_ND.shape or len(reference_ND) < 2:
        raise ValueError(f"shapes {reference_ND.shape} and {candidate_ND.shape}: the same tiles, two or more")
    a_ND, b_ND = reference_ND.astype(np.float64), candidate_ND.astype(np.float64)
    median, p99 = _dimension_errors(a_ND, b_ND)
    rows = spread_rows(len(a_ND), PROBE_TILES)
    finite = bool(np.isfinite(a_ND[rows]).all() and np.isfinite(b_ND[rows]).all())
    of_probe = probe_error(a_ND[rows], b_ND[rows]) if finite else float("inf")
    passed = median <= MEDIAN_LIMIT and p99 <= P99_LIMIT and of_probe <= PROBE_LIMIT
    return PrecisionCheck(precision, len(a_ND), median, p99, of_probe, passed)


def _dimension_errors(reference_ND: NDArray[np.float64], candidate_ND: NDArray[np.float64]) -> tuple[float, float]:
    """Return the median and the 99th percentile over dimensions of RMS error over spread."""
    rms_D = np.sqrt(np.mean((candidate_ND - reference_ND) ** 2, axis=0))
    spread_D = reference_ND.std(axis=0)
    inexact_D = np.where(rms_D == 0, 0.0, np.inf)
    error_D = np.divide(rms_D, spread_D, out=inexact_D, where=spread_D > 0)
    error_D = np.where(np.isnan(error_D), np.inf, error_D)
    # The order statistic above the quantile, so that an infinite error never turns into NaN by interpolation.
    median, p99 = (float(np.quantile(error_D, q, method="higher")) for q in (0.5, 0.99))
    return median, p99


def choose_by_check(
    tried: Sequence[Computed], embed_with: Callable[[Computed], NDArray[np.float32]], n_tiles: int
) -> PrecisionChoice:
    """Return the first precision that passes; fp32 where none does or too few tiles can tell."""
    if tried[0] == "fp32":
        return PrecisionChoice("fp32", (), "nothing faster than fp32 here")
    if n_tiles < MIN_TILES:
        return PrecisionChoice("fp32", (), f"{n_tiles} tiles are too few to check a faster precision")
    reference_ND = embed_with("fp32")
    checks: list[PrecisionCheck] = []
    for precision in tried[:-1]:
        checks.append(compare_precision(precision, reference_ND, embed_with(precision)))
        if checks[-1].passed:
            return PrecisionChoice(precision, tuple(checks), str(checks[-1]))
    return PrecisionChoice("fp32", tuple(checks), "; ".join(str(check) for check in checks))


def spread_rows(n_rows: int, n_wanted: int = CHECK_TILES) -> NDArray[np.int64]:
    """Return evenly spaced row numbers, so that a check sees more than the first slide."""
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, n_wanted)).round().astype(np.int64))


# ---- The choice, remembered ----


LOG = logging.getLogger(__name__)
CHOICE_FACTS = ("precision", "checks", "reason")
WAIT_S = 24 * 3600.0  # another process may be checking a large network on a CPU


def remembered_choice(request: EmbedRequest, device: ComputeDevice, index: HashIndex) -> PrecisionChoice | None:
    """Return the precision without computing anything: where there is no choice, or where it was checked before."""
    tried = _tried(request, device)
    if len(tried) == 1:
        return PrecisionChoice("fp32", (), "nothing faster than fp32 was asked for, or is there")
    return read_choice(_record(request, device, index), tried)


def read_choice(path: Path, tried: Sequence[Computed]) -> PrecisionChoice | None:
    """Return the answer of an earlier check; None where there is none, or its record is damaged."""
    try:
        data = unsealed(read_json(path), CHOICE_FACTS)
        checks = tuple(PrecisionCheck(**check) for check in data["checks"])
        if data["precision"] not in tried:
            raise ValueError(data["precision"])
        LOG.debug("precision, as checked earlier: %s", data["reason"])
        return PrecisionChoice(data["precision"], checks, str(data["reason"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOG.warning("the record of a precision check is damaged (%s), and it is checked again: %s", error, path)
        return None


def checked_choice(
    request: EmbedRequest, device: ComputeDevice, index: HashIndex, reader: PixelReader, rows: Rows
) -> PrecisionChoice:
    """Check faster precisions against fp32 on tiles from all over a data set, and remember the answer.

    Of several processes that ask at once the first checks; the others wait and read its answer.
    """
    with _one_at_a_time(_record(request, device, index).with_suffix(".lock")):
        return remembered_choice(request, device, index) or _check(request, device, index, reader, rows)


def _check(
    request: EmbedRequest, device: ComputeDevice, index: HashIndex, reader: PixelReader, rows: Rows
) -> PrecisionChoice:
    tried = _tried(request, device)
    keys = list(dict.fromkeys(rows.keys))
    # an explicit wish is granted in any case: fewer tiles say whether to warn
    n_tiles = CHECK_TILES if request.embedding.precision == "auto" else WISH_TILES
    sample = [rows[keys[place]] for place in spread_rows(len(keys), n_tiles)]
    batches = _views(request, reader, sample)
    choice = choose_by_check(tried, lambda precision: _embed(request, device, batches, precision), len(sample))
    if request.embedding.precision != "auto" and choice.precision != tried[0]:
        LOG.warning(
            "using %s as asked for, though it changes this network's embeddings more than it should (%s)",
            tried[0],
            _checked_on(choice),
        )
        choice = replace(choice, precision=tried[0], reason=f"{tried[0]} as asked for; {choice.reason}")
    elif choice.checks:
        LOG.info("%s (%s)", _plainly(choice), _checked_on(choice))
    LOG.debug("precision of %s: %s", request.spec.name, choice.reason)
    if choice.checks:
        write_choice(choice, _record(request, device, index))
    return choice


def _plainly(choice: PrecisionChoice) -> str:
    """Say what a check decided without its figures."""
    refused = " and ".join(check.precision for check in choice.checks if not check.passed)
    if choice.precision == "fp32":
        return f"Using fp32: {refused} would change this network's embeddings too much"
    beside = f"; {refused} would change them too much" if refused else ""
    return f"Using {choice.precision}: it changes this network's embeddings less than matters{beside}"


def _checked_on(choice: PrecisionChoice) -> str:
    return f"checked on {choice.checks[-1].n_tiles} tiles; --debug shows how much" if choice.checks else choice.reason


def _tried(request: EmbedRequest, device: ComputeDevice) -> tuple[Computed, ...]:
    """Return the precisions to check, fp32 last; fp32 alone where nothing is to be checked."""
    if request.spec.kind in ("colour-histogram", "external"):
        return ("fp32",)
    if request.embedding.precision == "auto":
        return candidates(device)
    explicit = choose_precision(device, request.embedding.precision)
    return ("fp32",) if explicit == "fp32" else (explicit, "fp32")


def _record(request: EmbedRequest, device: ComputeDevice, index: HashIndex) -> Path:
    """Return where the answer is kept: by everything that decides it but the tiles."""
    from histotune.embeddings.space import embedding_space, with_key

    space = embedding_space(request.spec, request.view, device, "fp32", index)
    question = f"check of {', '.join(_tried(request, device))} within {MEDIAN_LIMIT:g}, {P99_LIMIT:g}, {PROBE_LIMIT:g}"
    return request.cache / "precision" / f"{with_key(replace(space, precision=question)).key[:32]}.json"


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock for the block; where the cache can't be written nobody else could read an answer either."""
    with ExitStack() as stack:
        with suppress(UserError):
            stack.enter_context(lock(path, timeout_s=WAIT_S))
        yield


def write_choice(choice: PrecisionChoice, path: Path) -> None:
    """Keep the answer of a check, where the cache can be written."""
    try:
        write_sealed(path, asdict(choice))
    except UserError as error:
        LOG.warning("the answer of the precision check can't be kept (%s): %s", error.what, path)


def _views(request: EmbedRequest, reader: PixelReader, sample: Sequence[Wanted]) -> list[Views]:
    from histotune.images.loader import load_views

    size = request.embedding.first_batch_size
    sizes = [min(size, len(sample) - start) for start in range(0, len(sample), size)]
    find_all_bad = request.on_bad_image == "skip"
    return list(load_views(sample, sizes, request.view, reader, find_all_bad=find_all_bad))


def _embed(
    request: EmbedRequest, device: ComputeDevice, batches: Sequence[Views], precision: Computed
) -> NDArray[np.float32]:
    """Embed the tiles of the check in one precision."""
    from histotune.backbones.engine import load_backbone
    from histotune.embeddings.runner import BatchRunner, compute_threads

    with compute_threads(request):
        spec = replace(request.spec, size_px=request.view.size_px)
        backbone = load_backbone(spec, device, precision, request.hashes)
        runner = BatchRunner(backbone, request.embedding.first_batch_size)
        return np.concatenate([runner.run(views.pixels_BSSC, views.n_inputs) for views in batches])


# ---- The probe without labels ----
#
# A probe can lean on directions in which tiles hardly differ, where an error that is small in every dimension is
# large. So ridge probes are fitted to random targets on half of the tiles, once per precision, and score the other
# half: random targets use every direction, and no label is needed.


N_SPLITS, N_TARGETS = 32, 8
SHRINKAGE = 0.001
"""Ridge penalty over the mean eigenvalue of the Gram matrix."""


def probe_error(reference_ND: Float, candidate_ND: Float, seed: int = 0) -> float:
    """Return the RMS change of a probe's scores over their spread between tiles it was not trained on.

    Example:
        >>> x_ND = np.random.default_rng(0).normal(size=(64, 20))
        >>> probe_error(x_ND, x_ND)
        0.0
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    mean_D, spread_D = reference_ND.mean(axis=0), reference_ND.std(axis=0)
    used_D = spread_D > 0
    if not used_D.any():
        return 0.0
    a_ND, b_ND = ((x_ND - mean_D)[:, used_D] / spread_D[used_D] for x_ND in (reference_ND, candidate_ND))
    squares, spread = 0.0, 0.0
    for _ in range(N_SPLITS):
        order_N = rng.permutation(len(a_ND))
        train_n, held_n = np.array_split(order_N, 2)
        target_nT = rng.normal(size=(len(train_n), N_TARGETS))
        score_nT = _ridge_scores(a_ND[train_n], a_ND[held_n], target_nT)
        squares += float(((_ridge_scores(b_ND[train_n], b_ND[held_n], target_nT) - score_nT) ** 2).sum())
        spread += float(((score_nT - score_nT.mean(axis=0)) ** 2).sum())
    return float(np.sqrt(squares / spread)) if spread > 0 else 0.0


def _ridge_scores(train_nD: Float, held_nD: Float, target_nT: Float) -> Float:
    """Return what ridge probes say of held-out tiles, from the Gram matrix because tiles are fewer than dimensions."""
    # w = X' (X X' + lambda I)^-1 y, with lambda a share of the mean eigenvalue of X X'.
    mean_D = train_nD.mean(axis=0)
    centred_nD = train_nD - mean_D
    gram_nn = centred_nD @ centred_nD.T
    gram_nn[np.diag_indices_from(gram_nn)] += SHRINKAGE * np.trace(gram_nn) / len(gram_nn) or 1.0
    weight_DT = centred_nD.T @ np.linalg.solve(gram_nn, target_nT - target_nT.mean(axis=0))
    return np.asarray((held_nD - mean_D) @ weight_DT)


# ---- Storage in float16 ----


def stored(
    matrix_ND: NDArray[np.float32], storage: Storage, shard: str = ""
) -> NDArray[np.float32] | NDArray[np.float16]:
    """Return a shard's rows as they are kept."""
    if storage == "fp32":
        return matrix_ND
    if len(matrix_ND) < MIN_TILES:
        LOG.debug("shard %s stays in float32: %d rows are too few to check float16", shard, len(matrix_ND))
        return matrix_ND
    with np.errstate(over="ignore"):  # becomes infinite, which never passes
        half_ND = matrix_ND.astype(np.float16)
    check = compare_precision("fp16", matrix_ND, half_ND)
    if check.passed:
        return half_ND
    LOG.warning("embeddings are stored in float32, not float16, which would change them too much (--debug shows how)")
    LOG.debug("shard %s stays in float32: storing %s", shard, check)
    return matrix_ND
