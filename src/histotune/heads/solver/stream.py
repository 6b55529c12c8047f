"""The rows of an embedding matrix, centred block by block in the precision asked for.

A matrix that fits is held centred in float32; a larger one keeps its storage (float16, memory-mapped) and every pass
widens one block after the other, so that the number of rows is not bounded by memory.
"""

# N tiles (rows), n rows of a block, D columns, F training masks

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from histotune.heads.solver.problems import divisors, is_constant
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


HELD_BYTES = 2**30
"""Up to this size the centred matrix is held in float32."""
HELD_DEVICE_SHARE = 0.5
"""A GPU holds the matrix if it takes at most this share of the free memory."""
BLOCK_ROWS, DEVICE_BLOCK_ROWS = 2048, 16384
"""A block of 2,048 x 3,072 float32 (24 MB) stays in the last cache between its product forth and its product back."""
CENTRE_ROWS = 4096
COVARIANCE_ROWS_PER_COLUMN = 4
MAX_PATTERNS = 64
PRECISIONS: tuple[Precision, ...] = ("float32", "float64")
LOST_DIGITS = 1e-7
"""A variance below this share of its second moment lost half its digits to the subtraction, and is computed anew."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of the stream.

    Attributes:
        part: Their place among the used rows.
        masks: Which masks train on any of them (F,).
    """

    part: slice
    masks: NDArray[np.bool_]


class RowStream:
    """The used rows of a matrix, minus a fixed centre, in blocks.

    Args:
        x_ND: Raw columns; float16, float32 or float64, memory-mapped or not.
        y_N: Labels.
        weight_FN: Sample weight per mask and row; rows that no mask uses are never read.
        kit: Where to compute.

    Attributes:
        y_N: Label per used row.
        weight_FN: Weights of the used rows, each mask's summing to 1.
        centre_D: What is subtracted, exact in the matrix's type; near the mean, and only the path depends on how near.
        scale_D: What is multiplied after that: powers of two, which keep any column within float32; 1 for float16.
        mean_FD: Each mask's mean of the centred, scaled columns.
        std_FD: Each mask's standard deviation of them, 0 where a column is constant.
        passes: Passes over the rows so far.
    """

    def __init__(self, x_ND: NDArray[np.floating], y_N: Int, weight_FN: Float, kit: ArrayKit) -> None:
        # Rows that no mask uses are left out; rows that the same masks use lie together, so that a block can be passed
        # over.
        self.kit, self.x_ND, self.passes = kit, x_ND, 0
        self.n_columns = x_ND.shape[1]
        self._rows = np.flatnonzero((weight_FN > 0).any(axis=0))
        self._inverses: dict[bytes, Float] = {}
        self._held: Array = None
        self._buffers: dict[Precision, tuple[Array, Array]] = {}
        self._stored: Array = None
        self._fits = len(self._rows) * self.n_columns * 4 <= HELD_BYTES
        in_order = self._fits and kit.is_numpy
        if in_order:
            self._rows = self._rows[_by_pattern(weight_FN[:, self._rows] > 0)]
        self._every_row = len(self._rows) == len(x_ND) and bool((np.diff(self._rows) == 1).all())
        weight_FN = weight_FN[:, self._rows]
        self.weight_FN = weight_FN / weight_FN.sum(axis=1, keepdims=True)
        self.y_N = np.asarray(y_N)[self._rows]
        self._blocks = _cut(self.weight_FN > 0, BLOCK_ROWS if kit.is_numpy else DEVICE_BLOCK_ROWS, in_order)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused with the moments
            self._prepare()

    def _prepare(self) -> None:
        """Fix the centre, hold what fits, and take each mask's moments."""
        kit = self.kit
        self.centre_D, self.scale_D = self._centre_and_scale()
        self._centre_by_type = {kind: kit.array(self.centre_D, kind) for kind in PRECISIONS}
        self._scale_by_type = {kind: kit.array(self.scale_D, kind) for kind in PRECISIONS}
        if self._fits and kit.is_numpy:
            self._hold()
        elif not kit.is_numpy and self._fits_device():
            self._stored = kit.array(self._raw(slice(0, self.n_rows)))
        self.mean_FD, self.std_FD = self._moments()

    @property
    def n_rows(self) -> int:
        """Number of used rows."""
        return len(self._rows)

    def blocks(self, precision: Precision) -> Iterator[tuple[Block, Array]]:
        """Make one pass over the rows."""
        self.passes += 1
        for block in self._blocks:
            if precision == "float32" and self._held is not None:
                yield block, self._held[block.part]
            else:
                yield block, self._widened(block.part, precision)

    def moments(self) -> tuple[Float, Float]:
        """Return each mask's mean and SD of raw columns."""
        return self.mean_FD / self.scale_D + self.centre_D, self.std_FD / self.scale_D

    def inverse(self, columns: Int) -> Float:
        """Return one over what each mask divides these columns by, as the stream shows them (F, C); 0 for constants."""
        key = columns.tobytes()
        if key not in self._inverses:
            std_FC = self.std_FD[:, columns] / self.scale_D[columns]
            inverse_FC = np.where(std_FC > 0, 1.0 / (divisors(std_FC) * self.scale_D[columns]), 0.0)
            self._inverses[key] = inverse_FC
        return self._inverses[key]

    def covariance(self) -> Array:
        """Return about the covariance (D, D) of all standardised columns, from four rows per column, in float32.

        One matrix serves every set of columns: a set's own is a submatrix.
        """
        # Second moments of evenly spaced rows, less the outer product of their means, over the product of divisors.
        kit, n_used = self.kit, 0
        stride = max(1, self.n_rows // (COVARIANCE_ROWS_PER_COLUMN * self.n_columns))
        gram_DD = kit.zeros((self.n_columns, self.n_columns), "float32")
        total_D = kit.zeros((self.n_columns,), "float64")
        for _, x_nD in self.blocks("float32"):
            sample = x_nD[::stride]
            gram_DD += sample.T @ sample
            total_D += kit.cast(sample, "float64").sum(axis=0)
            n_used += len(sample)
        mean_D = kit.cast(total_D / n_used, "float32")
        gram_DD /= n_used
        gram_DD -= mean_D[:, None] * mean_D
        variance_D = kit.host(gram_DD.diagonal()).astype(np.float64)
        std_D = np.sqrt(np.maximum(variance_D, 0.0)) / self.scale_D
        scale_D = kit.array(1.0 / (divisors(std_D) * self.scale_D), "float32")
        gram_DD *= scale_D[:, None]
        gram_DD *= scale_D
        return gram_DD

    def _raw(self, part: slice) -> NDArray[np.floating]:
        """Return raw rows."""
        return self.x_ND[part] if self._every_row else self.x_ND[self._rows[part]]

    def _widened(self, part: slice, precision: Precision) -> Array:
        """Return centred rows in a wider type."""
        wide_nD = self._unscaled(part, precision)
        if self.x_ND.dtype != np.float16:
            wide_nD *= self._scale_by_type[precision]
        return wide_nD

    def _unscaled(self, part: slice, precision: Precision) -> Array:
        # The centre is exact in the matrix's type, so that rows may be widened first and centred afterwards; float64
        # alone is centred before it is rounded.
        centre_D = self._centre_by_type[precision]
        if self._stored is not None:
            return self.kit.cast(self._stored[part], precision) - centre_D
        raw_nD = self._raw(part)
        if raw_nD.dtype == np.float64:  # subtract before rounding: a large mean would swallow a small spread
            return self.kit.array(raw_nD - self.centre_D, precision)
        if not self.kit.is_numpy:
            return self.kit.cast(self.kit.array(np.ascontiguousarray(raw_nD)), precision) - centre_D
        if self._fits or raw_nD.dtype != np.float16:
            wide_nD = raw_nD.astype(precision)
        else:
            wide_nD = self._from_half(raw_nD, precision)
        wide_nD -= centre_D
        return wide_nD

    def _from_half(self, raw_nD: NDArray[np.floating], precision: Precision) -> NDArray[np.floating]:
        """Widen float16 with torch, ten times faster than NumPy, into memory that the next block takes over."""
        import torch

        if precision not in self._buffers:
            shape = (max(block.part.stop - block.part.start for block in self._blocks), self.n_columns)
            self._buffers[precision] = (
                torch.empty(shape, dtype=torch.float16),
                torch.empty(shape, dtype=getattr(torch, precision)),
            )
        half, wide = (buffer[: len(raw_nD)] for buffer in self._buffers[precision])
        np.copyto(half.numpy(), raw_nD)  # torch refuses memory that can't be written, such as a file's
        wide_nD: NDArray[np.floating] = wide.copy_(half).numpy()
        return wide_nD

    def _centre_and_scale(self) -> tuple[Float, Float]:
        """Return about the mean of the rows, and about the inverse of their spread, from a sample."""
        # Two passes over a sample: its mean in the matrix's own precision, so that subtracting it is exact; then the
        # power of two nearest to one over its SD.
        stride = max(1, self.n_rows // CENTRE_ROWS)
        sample = np.sort(self._rows[::stride])
        parts = [sample[start : start + BLOCK_ROWS] for start in range(0, len(sample), BLOCK_ROWS)]
        total_D, square_D = np.zeros(self.n_columns), np.zeros(self.n_columns)
        for rows in parts:
            total_D += self.x_ND[rows].sum(axis=0, dtype=np.float64)
        centre_D = total_D / len(sample)
        if self.x_ND.dtype != np.float64:
            centre_D = centre_D.astype(np.float32).astype(np.float64)
        if self.x_ND.dtype == np.float16:
            return centre_D, np.ones(self.n_columns)
        for rows in parts:
            square_D += ((self.x_ND[rows].astype(np.float64) - centre_D) ** 2).sum(axis=0)
        spread_D = np.sqrt(square_D / len(sample))
        return centre_D, np.exp2(-np.round(np.log2(np.where(spread_D > 0, spread_D, 1.0))))

    def _hold(self) -> None:
        held_ND = np.empty((self.n_rows, self.n_columns), np.float32)
        for block in self._blocks:
            held_ND[block.part] = self._widened(block.part, "float32")
        self._held = held_ND

    def _fits_device(self) -> bool:
        if not self.kit.device.startswith("cuda"):
            return True
        free, _ = self.kit.xp.cuda.mem_get_info()
        return bool(self.n_rows * self.n_columns * self.x_ND.dtype.itemsize <= HELD_DEVICE_SHARE * free)

    def _moments(self) -> tuple[Float, Float]:
        """Return each mask's mean and SD of the centred columns in one pass."""
        # Var = E x^2 - (E x)^2 of centred columns in one pass; where the difference has lost its digits, a second pass.
        kit = self.kit
        sums_FD, squares_FD = (kit.zeros((len(self.weight_FN), self.n_columns), "float64") for _ in range(2))
        weight_FN = kit.array(self.weight_FN, "float64")
        for block, x_nD in self.blocks("float64"):
            sums_FD += weight_FN[:, block.part] @ x_nD
            squares_FD += weight_FN[:, block.part] @ (x_nD * x_nD)
        mean_FD, square_FD = kit.host(sums_FD), kit.host(squares_FD)
        if not np.isfinite(square_FD).all():
            raise ValueError("the embedding matrix holds values that are not finite")
        variance_FD = square_FD - mean_FD**2
        lost = np.flatnonzero((variance_FD < LOST_DIGITS * square_FD).any(axis=0))
        if len(lost):
            variance_FD[:, lost] = self._variance(lost, mean_FD[:, lost])
        terms_FD = np.abs(self.centre_D * self.scale_D) + np.abs(mean_FD)
        constant_FD = is_constant(variance_FD, terms_FD, self.n_rows)
        return mean_FD, np.sqrt(np.where(constant_FD, 0.0, variance_FD))

    def _variance(self, columns: Int, mean_FC: Float) -> Float:
        """Return the variance of some columns by a second pass, which does not cancel."""
        # sum_i w_i (x_i - mean)^2 per mask, block by block.
        out_FC = np.zeros_like(mean_FC)
        for block in self._blocks:
            x_nC = self._raw(block.part)[:, columns].astype(np.float64) - self.centre_D[columns]
            x_nC *= self.scale_D[columns]
            for mask in np.flatnonzero(block.masks):
                weight_n = self.weight_FN[mask, block.part]
                rows = np.flatnonzero(weight_n)
                out_FC[mask] += weight_n[rows] @ (x_nC[rows] - mean_FC[mask]) ** 2
        return out_FC


def _by_pattern(used_FN: NDArray[np.bool_]) -> Int:
    """Return an order of rows in which those that the same masks use lie together."""
    order = np.lexsort(used_FN[::-1])
    ordered = used_FN[:, order]
    n_patterns = 1 + int((ordered[:, 1:] != ordered[:, :-1]).any(axis=0).sum())
    return order if n_patterns <= MAX_PATTERNS else np.arange(used_FN.shape[1])


def _cut(used_FN: NDArray[np.bool_], n_rows: int, in_order: bool) -> list[Block]:
    """Cut rows into blocks; where those that the same masks use lie together, also between them."""
    n = used_FN.shape[1]
    changes = 1 + np.flatnonzero((used_FN[:, 1:] != used_FN[:, :-1]).any(axis=0))
    edges = [0, *(changes.tolist() if in_order and len(changes) < MAX_PATTERNS else []), n]
    parts = []
    for low, high in itertools.pairwise(edges):
        n_parts = -(-(high - low) // n_rows)
        cuts = np.linspace(low, high, n_parts + 1).round().astype(int).tolist()
        parts += [slice(start, stop) for start, stop in itertools.pairwise(cuts)]
    return [Block(part, np.asarray(used_FN[:, part].any(axis=1))) for part in parts]


# ------------------------------------------------------------------------------
# One way to write array code for NumPy (on a CPU, where torch need not even be imported) and for torch tensors (on a
# GPU): the few operations whose names differ; einsum, where, exp, @, indexing and in-place operators are spelled alike


Array = Any
"""A NumPy array or a torch tensor."""
Precision = Literal["float32", "float64"]


class ArrayKit:
    """NumPy, or torch on a device.

    Args:
        device: ``cpu`` for NumPy; otherwise a torch device, such as ``cuda`` (``torch:cpu`` runs torch on the CPU).

    Attributes:
        xp: The module, ``numpy`` or ``torch``.
        device: As given.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.xp: Any = np
        self._place = device.removeprefix("torch:")
        if device != "cpu":
            import torch

            if self._place.startswith("cuda") and not torch.cuda.is_available():
                raise UserError("no CUDA device was found", value=device, fix="leave the device at cpu")
            self.xp = torch

    @property
    def is_numpy(self) -> bool:
        """Whether arrays are NumPy's."""
        return self.xp is np

    def array(self, values: NDArray[Any], precision: Precision | None = None) -> Array:
        """Return a host array on the device."""
        if self.is_numpy:
            return np.ascontiguousarray(values, dtype=precision)
        tensor = self.xp.from_numpy(values if values.flags.writeable else values.copy())
        return tensor.to(device=self._place, dtype=getattr(self.xp, precision) if precision else None)

    def cast(self, values: Array, precision: Precision) -> Array:
        """Return an array in another floating-point type; the array itself where it already is."""
        return values.astype(precision, copy=False) if self.is_numpy else values.to(getattr(self.xp, precision))

    def host(self, values: Array) -> NDArray[Any]:
        """Return a device array on the host."""
        return np.asarray(values if self.is_numpy else values.cpu().numpy())

    def zeros(self, shape: tuple[int, ...], precision: Precision) -> Array:
        """Return zeros on the device."""
        if self.is_numpy:
            return np.zeros(shape, precision)
        return self.xp.zeros(shape, dtype=getattr(self.xp, precision), device=self._place)

    def dot(self, a: Array, b: Array) -> Array:
        """Return the inner products of two arrays along all axes but the first."""
        if self.is_numpy:
            axes = "abcd"[: a.ndim]
            return np.einsum(f"{axes},{axes}->a", a, b)
        return (a * b).flatten(1).sum(1)  # torch's einsum would be a batch of products of one row each

    def eigh(self, symmetric: Array) -> tuple[Array, Array]:
        """Return eigenvalues, ascending, and eigenvectors of a symmetric matrix."""
        if self.is_numpy:
            from scipy.linalg import eigh

            eigen, vectors = eigh(symmetric, driver="evd")  # NumPy's own copies the matrix and keeps its layout
            return eigen, np.ascontiguousarray(vectors)
        eigen, vectors = self.xp.linalg.eigh(symmetric)
        return eigen, vectors


def column(values_A: Float, like_AKV: Array) -> Array:
    """Return one value per problem, to multiply an array with."""
    shaped = values_A[:, None, None]
    return shaped.astype(like_AKV.dtype) if isinstance(like_AKV, np.ndarray) else like_AKV.new_tensor(shaped)


def dot_host(kit: ArrayKit, a_AKV: Array, b_AKV: Array) -> Float:
    """Return the inner product per problem, on the host."""
    return kit.host(kit.dot(a_AKV, b_AKV)).astype(np.float64)


def two_loop(
    kit: ArrayKit,
    gradient_AKV: Array,
    history: list[tuple[Array, Array, Float]],
    precondition: Callable[[Array], Array],
) -> Array:
    """Return the quasi-Newton direction by the two-loop recursion (Nocedal & Wright, algorithm 7.4).

    The history holds steps s, gradient changes y and rho = 1 / (s . y), oldest first.
    """
    # alpha = rho s . q, q -= alpha y from the newest pair back, then q = gamma H0 q with gamma = (s . y) / (y . H0 y)
    # of the newest pair, then q += (alpha - rho y . q) s from the oldest.
    q_AKV = gradient_AKV * 1.0
    alphas = []
    for step, change, rho_A in reversed(history):
        alpha_A = rho_A * dot_host(kit, step, q_AKV)
        q_AKV -= column(alpha_A, q_AKV) * change
        alphas.append(alpha_A)
    q_AKV = precondition(q_AKV)
    if history:
        _, change, rho_A = history[-1]
        scaled_A = rho_A * dot_host(kit, change, precondition(change))
        q_AKV *= column(np.where(scaled_A > 0, 1.0 / np.where(scaled_A > 0, scaled_A, 1.0), 1.0), q_AKV)
    for (step, change, rho_A), alpha_A in zip(history, reversed(alphas), strict=True):
        q_AKV += column(alpha_A - rho_A * dot_host(kit, change, q_AKV), q_AKV) * step
    return -q_AKV
