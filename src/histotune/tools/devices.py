"""What computes, in which precision, with which batch size; probed without importing torch.

A warm run must know the compute signature of its embeddings without paying for torch's import, so the probe reads
the processor's flags and asks the CUDA driver directly.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from histotune.tools.errors import UserError
from histotune.tools.provenance import cpu_count, cpu_name, library_version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager


TORCH_WHEELS = ("12.6", "12.8", "13.0")  # CUDA builds that pytorch.org has published for torch 2.8 and later
Precision = Literal["auto", "fp32", "bf16", "fp16"]
DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]
S = TypeVar("S")
T = TypeVar("T")
SMALL_ROWS = 800
"""Up to this many training tiles a batch of fits runs on one BLAS thread."""


@dataclass(frozen=True)
class ComputeDevice:
    """One processor that can run a backbone.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        name: Marketing name.
        capability: CUDA compute capability such as "7.5"; empty for CPUs.
        memory_gib: Device memory; NaN for CPUs.
        fast_bf16: Whether bf16 matrix products run faster than fp32 here.
    """

    kind: Literal["cpu", "cuda"]
    name: str
    capability: str
    memory_gib: float
    fast_bf16: bool


def find_device(choice: DeviceChoice = "auto") -> ComputeDevice:
    """Return the device a backbone will run on.

    Args:
        choice: ``auto`` takes the first GPU that both the driver and the installed torch can use.

    Returns:
        The device.

    Raises:
        UserError: A GPU was asked for and none can be used.
    """
    gpu = _probe_cuda() if choice in ("auto", "cuda") else None
    if gpu is not None and torch_fits_driver():
        return gpu
    if choice in ("cuda", "mps"):
        raise UserError(
            "no such device can be used here",
            value=choice,
            allowed="cpu" if gpu is None else "cpu (the GPU is there, but the installed torch can't use its driver)",
            fix="histotune doctor" if gpu is None else torch_install_line(driver_cuda_version()),
        )
    return ComputeDevice("cpu", cpu_name(), "", float("nan"), _cpu_has_fast_bf16())


def choose_precision(device: ComputeDevice, requested: Precision = "auto") -> Literal["fp32", "bf16", "fp16"]:
    """Return the precision to embed in: bf16 where fast, fp16 on Turing and Volta, fp32 otherwise."""
    if requested == "fp16" and device.kind == "cpu":
        raise UserError(
            "fp16 has no fast path on a CPU",
            value=requested,
            allowed="auto, fp32, bf16",
            fix="--set embedding.precision=auto",
        )
    if requested != "auto":
        return requested
    if device.fast_bf16:
        return "bf16"
    return "fp16" if device.kind == "cuda" and float(device.capability) >= 7.0 else "fp32"


def compute_signature(device: ComputeDevice) -> dict[str, str]:
    """Return what can change an embedding's last bits: library majors and the kind of device."""
    majors = {name: library_version(name).split(".")[0] for name in ("torch", "timm", "transformers", "pillow")}
    return {**majors, "device": f"{device.kind}{device.capability}"}


def halve_on_out_of_memory(batch_size: int, attempt: Callable[[int], T]) -> tuple[T, int]:
    """Run ``attempt(batch_size)``, halving the batch each time the device runs out of memory."""
    import torch

    while True:
        try:
            return attempt(batch_size), batch_size
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if batch_size == 1:
                raise UserError(
                    "a single tile does not fit into the device's memory",
                    fix="choose a smaller backbone, or --set embedding.device=cpu",
                ) from error
        # Not above: while the exception is handled, its frames keep the tensors of the failed batch alive.
        batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch says that the device's memory ran out."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)


def one_blas_thread(when: bool = True) -> AbstractContextManager[object]:
    """Run the block's matrix products on one thread.

    Threads that wait for one another lose more than they gain on small products, and on a busy machine they cost ten
    times more. A fixed number of threads also fixes the last bits of the result.
    """
    if not when:
        return nullcontext()
    import threadpoolctl

    limits: AbstractContextManager[object] = threadpoolctl.threadpool_limits(1, user_api="blas")
    return limits


def map_small(function: Callable[[S], T], items: Sequence[S], small: bool) -> list[T]:
    """Apply a function to independent small problems side by side, each on one BLAS thread.

    Several small problems on one thread each finish sooner than one after another on all threads, and give the same
    bits. Large ones run one after another, with all threads and the memory to themselves.
    """
    if not small:
        return [function(item) for item in items]
    with one_blas_thread(), ThreadPoolExecutor(max(1, min(cpu_count(), len(items)))) as pool:
        return list(pool.map(function, items))


def torch_cuda_version() -> str | None:
    """Return the CUDA version the installed torch was built for, without importing torch; None for CPU builds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda[^=]*=\s*'([\d.]+)'", text, flags=re.MULTILINE)
    return match.group(1) if match else None


def driver_cuda_version() -> str | None:
    """Return the newest CUDA version the installed driver supports, such as "12.8"; None without a driver."""
    driver = _cuda_driver()
    number = ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def torch_fits_driver() -> bool:
    """Return whether the installed torch is built for CUDA and the driver knows that CUDA major version."""
    built, driver = torch_cuda_version(), driver_cuda_version()
    return built is not None and driver is not None and int(built.split(".")[0]) <= int(driver.split(".")[0])


def torch_install_line(driver_cuda: str | None) -> str:
    """Return the command that installs a torch for this driver.

    Within a CUDA major version a driver also runs newer builds, so a driver for 12.2 takes the build for 12.6. The
    old torch goes first: pip would take it as satisfying the request.

    Example:
        >>> torch_install_line("12.8").split(" && ")[1]
        'pip install torch torchvision --index-url https://download.pytorch.org/whl/cu128'
    """
    if driver_cuda is None:
        return "make the NVIDIA driver's library (libcuda) visible here, then run histotune doctor again"
    known = _version_pair(driver_cuda)
    same_major = [build for build in TORCH_WHEELS if _version_pair(build)[0] == min(known[0], 13)]
    if not same_major:
        return "update the NVIDIA driver to one for CUDA 12.6 or newer, then run histotune doctor again"
    fitting = [build for build in same_major if _version_pair(build) <= known]
    tag = "cu" + (fitting[-1] if fitting else same_major[0]).replace(".", "")
    install = f"pip install torch torchvision --index-url https://download.pytorch.org/whl/{tag}"
    return f"pip uninstall -y torch torchvision && {install}"


@cache
def _probe_cuda() -> ComputeDevice | None:
    """Ask the CUDA driver for its first device; None where there is no driver or no device."""
    driver = _cuda_driver()
    count = ctypes.c_int()
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return None
    name = ctypes.create_string_buffer(256)
    memory, major, minor = ctypes.c_size_t(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetName(name, 256, 0)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), 0)
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, 0)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0)
    capability, memory_gib = f"{major.value}.{minor.value}", memory.value / 2**30
    return ComputeDevice("cuda", name.value.decode(), capability, memory_gib, fast_bf16=major.value >= 8)


def _cuda_driver() -> ctypes.CDLL | None:
    """Open the CUDA driver's library; None where there is none."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            return ctypes.CDLL(library)
        except OSError:
            continue
    return None


def _version_pair(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


@cache
def _cpu_has_fast_bf16() -> bool:
    """Whether the processor multiplies bf16 natively (AVX512-BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


Computed = Literal["fp32", "bf16", "fp16"]
