"""What a number was made with: versions, hardware, command; never a token."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = (
    "histotune", "torch", "torchvision", "timm", "transformers", "peft", "safetensors", "huggingface_hub",
    "numpy", "scipy", "scikit-learn", "pyarrow", "h5py", "pillow", "polars", "matplotlib",
)  # fmt: skip


@dataclass(frozen=True)
class Provenance:
    """Everything about the making of a run that is not its result.

    Attributes:
        versions: Installed version by library name ("not installed" where missing).
        python: Interpreter version.
        platform: Operating system and architecture.
        cpu: Processor name.
        n_cpus: Cores this process may use.
        memory_gib: Physical memory, GiB.
        command: The command line, tokens removed.
        started: Start time, ISO 8601 with zone.
    """

    versions: dict[str, str]
    python: str
    platform: str
    cpu: str
    n_cpus: int
    memory_gib: float
    command: str
    started: str

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict."""
        return asdict(self)


def collect_provenance() -> Provenance:
    """Read versions and hardware without importing any of the libraries.

    Returns:
        The record for this process.
    """
    from datetime import UTC, datetime

    return Provenance(
        versions={name: library_version(name) for name in LIBRARIES},
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        cpu=cpu_name(),
        n_cpus=cpu_count(),
        memory_gib=round(memory_gib(), 1),
        command=redact(" ".join(sys.argv)),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def library_version(name: str) -> str:
    """Return a library's installed version from its metadata, without importing it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def redact(text: str) -> str:
    """Replace anything shaped like a hub, W&B or Kaggle token.

    Example:
        >>> redact("login --token hf_abcdefghijklmnop")
        'login --token ***'
    """
    text = re.sub(r"\b(?:hf_|KGAT_|wandb_v\d+_)[A-Za-z0-9_-]{8,}", "***", text)
    text = re.sub(r"(?i)((?:token|key|password|secret)[\"']?[=\s:]+[\"']?)[^\s\"',}]+", r"\1***", text)
    return re.sub(r"(?<!revision[=\s])(?<!@)\b[0-9a-f]{40}\b", "***", text)  # W&B keys look like git revisions


def cpu_name() -> str:
    """Return the processor's name as the operating system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:  # noqa: PTH123  (a kernel file)
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_count() -> int:
    """Return the number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gib() -> float:
    """Return physical memory in GiB, or NaN where it can't be read."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return float("nan")
