"""How many threads small matrix products get."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def one_blas_thread(when: bool = True) -> AbstractContextManager[object]:
    """Run the block's matrix products on one thread.

    Threads that wait for one another lose more than they gain on small products, and on a busy machine they cost ten
    times more. A fixed number of threads also fixes the last bits of the result.

    Args:
        when: False leaves the number of threads as it is.

    Returns:
        A context manager.
    """
    if not when:
        return nullcontext()
    import threadpoolctl  # type: ignore[import-untyped]  # comes with scikit-learn

    limits: AbstractContextManager[object] = threadpoolctl.threadpool_limits(1, user_api="blas")
    return limits
