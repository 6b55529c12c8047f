"""One way to write array code for NumPy and for torch: the few operations whose names differ.

Everything else (``einsum``, ``where``, ``exp``, ``@``, indexing, in-place operators) is spelled alike in both, so the
solver is written once: NumPy on a CPU, where torch need not even be imported, torch tensors on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        """Return a host array on the device.

        Args:
            values: Any host array; on a GPU it is copied.
            precision: Floating-point type; None keeps the array's own.

        Returns:
            The array, contiguous.
        """
        if self.is_numpy:
            return np.ascontiguousarray(values, dtype=precision)
        tensor = self.xp.from_numpy(values if values.flags.writeable else values.copy())
        return tensor.to(device=self._place, dtype=getattr(self.xp, precision) if precision else None)

    def cast(self, values: Array, precision: Precision) -> Array:
        """Return an array in another floating-point type; the array itself where it already is.

        Args:
            values: A device array.
            precision: The type.

        Returns:
            The array.
        """
        return values.astype(precision, copy=False) if self.is_numpy else values.to(getattr(self.xp, precision))

    def host(self, values: Array) -> NDArray[Any]:
        """Return a device array on the host.

        Args:
            values: A device array.

        Returns:
            A NumPy array.
        """
        return np.asarray(values if self.is_numpy else values.cpu().numpy())

    def zeros(self, shape: tuple[int, ...], precision: Precision) -> Array:
        """Return zeros on the device.

        Args:
            shape: Of the array.
            precision: Its type.

        Returns:
            The array.
        """
        if self.is_numpy:
            return np.zeros(shape, precision)
        return self.xp.zeros(shape, dtype=getattr(self.xp, precision), device=self._place)

    def dot(self, a: Array, b: Array) -> Array:
        """Return the inner products of two arrays along all axes but the first.

        Args:
            a: A device array.
            b: Another of its shape and type.

        Returns:
            One value per entry of the first axis.
        """
        if self.is_numpy:
            axes = "abcd"[: a.ndim]
            return np.einsum(f"{axes},{axes}->a", a, b)
        return (a * b).flatten(1).sum(1)  # torch's einsum would be a batch of products of one row each

    def eigh(self, symmetric: Array) -> tuple[Array, Array]:
        """Return eigenvalues, ascending, and eigenvectors of a symmetric matrix.

        Args:
            symmetric: A device matrix.

        Returns:
            Eigenvalues and the matrix of eigenvectors, one per column.
        """
        if self.is_numpy:
            from scipy.linalg import eigh

            eigen, vectors = eigh(symmetric, driver="evd")  # NumPy's own copies the matrix and keeps its layout
            return eigen, np.ascontiguousarray(vectors)
        eigen, vectors = self.xp.linalg.eigh(symmetric)
        return eigen, vectors
