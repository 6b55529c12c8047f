"""What is installed, what computes, where things are kept: everything a question about a machine needs answered.

Nothing here imports torch unless the deep check is asked for, and no token is ever read into a message.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from importlib.metadata import requires
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from histotune.tools import provenance
from histotune.tools.devices import (
    choose_precision,
    driver_cuda_version,
    find_device,
    torch_cuda_version,
    torch_fits_driver,
    torch_install_line,
)
from histotune.tools.files import user_dir
from histotune.tools.table import Column, Layout, Row, ShownAsTables, Span, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import torch
    from packaging.requirements import Requirement
    from rich.console import RenderableType

    from histotune.tools.devices import ComputeDevice

Section = Literal["software", "hardware", "folders", "hub", "extras", "trial"]
LITTLE_DISK_GIB = 5.0  # weights of a ViT-g take 4.5 GiB


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis.

    Attributes:
        section: Where it is shown.
        name: What was looked at.
        value: What was found.
        level: ``warning`` where something will fail or be slow.
        fix: One command or action that mends it; empty where nothing is wrong.
    """

    section: Section
    name: str
    value: str
    level: Literal["ok", "warning"] = "ok"
    fix: str = ""


@dataclass(frozen=True)
class MachineDiagnosis(ShownAsTables):
    """All lines, in the order they are shown."""

    checks: tuple[Check, ...]

    @property
    def warnings(self) -> tuple[Check, ...]:
        """The lines that need the user's attention."""
        return tuple(check for check in self.checks if check.level == "warning")

    def value(self, name: str) -> str:
        """Return what was found under a name."""
        for check in self.checks:
            if check.name == name:
                return check.value
        raise KeyError(name)

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict."""
        return asdict(self)

    def tables(self) -> tuple[Table, ...]:
        """Return what was found as a table, under the names of the sections."""
        by_section = groupby(self.checks, key=lambda check: check.section)
        rows = tuple(row for section, checks in by_section for row in _section_rows(section, checks))
        notes = tuple(f"warning: {check.name}: {check.value}" for check in self.warnings)
        return (Table("", (Column("looked at", fit="cut"), Column("found")), rows, notes),)


def diagnose(cache: Path, deep: bool = False) -> MachineDiagnosis:
    """Look at the software, the hardware, the folders and the hub.

    Args:
        cache: The cache folder that runs use.
        deep: Import torch and multiply matrices in each precision, to confirm what the quick look concludes.

    Returns:
        What was found.

    Example:
        >>> from pathlib import Path
        >>> diagnose(Path("cache")).value("cache")
        'cache (not made yet)'
    """
    device = find_device("auto")
    checks = [*_software(), *_hardware(device), *_folders(cache), *_hub(), *_extras()]
    if deep:
        checks += _trials(device)
    return MachineDiagnosis(tuple(checks))


def render(diagnosis: MachineDiagnosis) -> RenderableType:
    """Return the diagnosis as tables, warnings with their fixes last."""
    from rich.console import Group
    from rich.text import Text

    (table,) = diagnosis.tables()
    shown = table.as_rich(Layout(lines=False, gap=2, has_header=False))
    return Group(shown, Text(), *_render_warnings(diagnosis))


def _section_rows(section: str, checks: Iterable[Check]) -> Iterator[Row]:
    yield Row(((Span(section, "strong"),),))
    for check in checks:
        yield Row((f"  {check.name}", (Span(check.value, "plain" if check.level == "ok" else "warning"),)))


def _render_warnings(diagnosis: MachineDiagnosis) -> Iterator[RenderableType]:
    from rich.text import Text

    if not diagnosis.warnings:
        yield Text("no problems found", style="green")
    for check in diagnosis.warnings:
        yield Text(f"warning: {check.name}: {check.value}", style="yellow", overflow="fold")
        if check.fix:
            yield Text(f"  fix: {check.fix}", overflow="fold")


def _software() -> Iterator[Check]:
    """Versions, each held against the range histotune declares."""
    import platform

    yield Check("software", "python", platform.python_version())
    declared = {_key(requirement.name): requirement for requirement in _requirements() if requirement.marker is None}
    for name in provenance.LIBRARIES:
        version = provenance.library_version(name)
        requirement = declared.get(_key(name))
        if requirement is None or requirement.specifier.contains(version if version[0].isdigit() else "0"):
            yield Check("software", name, version)
            continue
        wanted = f"{version} (histotune needs {requirement.specifier})"
        yield Check("software", name, wanted, "warning", f'pip install "{requirement.name}{requirement.specifier}"')


def _hardware(device: ComputeDevice) -> Iterator[Check]:
    """Processor, memory, GPU, and what a backbone will run on and why."""
    memory = provenance.memory_gib()
    yield Check("hardware", "processor", f"{provenance.cpu_name()}, {provenance.cpu_count()} cores for this process")
    yield Check("hardware", "memory", f"{memory:.1f} GiB" if memory > 0 else "unknown")
    built, driver = torch_cuda_version(), driver_cuda_version()
    yield Check("hardware", "torch build", f"for CUDA {built}" if built else "without CUDA")
    yield Check("hardware", "CUDA driver", f"supports CUDA up to {driver}" if driver else "none")
    yield _device_check(device, built, driver)
    tried = choose_precision(device)
    kept = "" if tried == "fp32" else "; kept where the check on your tiles passes"
    yield Check("hardware", "precision", f"{tried} ({_why_precision(device)}{kept})")


def _device_check(device: ComputeDevice, built: str | None, driver: str | None) -> Check:
    """Say what computes, and warn where a GPU is there and stays unused."""
    if device.kind == "cuda":
        value = f"cuda: {device.name}, compute capability {device.capability}, {device.memory_gib:.1f} GiB"
        return Check("hardware", "device", value)
    gpus = _nvidia_smi_gpus()
    if not gpus:
        return Check("hardware", "device", "cpu: no NVIDIA GPU found")
    if driver is None:
        why = f"nvidia-smi lists {gpus} but the CUDA driver library can't be opened"
        fix = "make libcuda.so.1 visible (in a container: start it with --gpus all)"
    elif torch_fits_driver():
        why = f"nvidia-smi lists {gpus} but the CUDA driver offers none of them"
        fix = "unset CUDA_VISIBLE_DEVICES, or reboot after a driver update"
    else:
        build = f"torch is built for CUDA {built}" if built else "torch is built without CUDA"
        why = f"{gpus} is there, but {build} and the driver supports CUDA up to {driver}"
        fix = torch_install_line(driver)
    return Check("hardware", "device", f"cpu: {why}", "warning", fix)


def _why_precision(device: ComputeDevice) -> str:
    if device.fast_bf16:
        return "bf16 products are fast here"
    if device.kind == "cuda":
        return "no fast bf16 before compute capability 8.0"
    return "no fast bf16 on this processor"


def _folders(cache: Path) -> Iterator[Check]:
    """Where things are kept, how large the cache is, and how much room is left."""
    size_gib = _folder_size(cache) / 2**30
    yield Check("folders", "cache", f"{cache} ({size_gib:.2f} GiB)" if cache.is_dir() else f"{cache} (not made yet)")
    parent = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(parent).free / 2**30
    if free < LITTLE_DISK_GIB:
        yield Check("folders", "free disk", f"{free:.1f} GiB", "warning", f"free space on {parent}, or choose --cache")
    else:
        yield Check("folders", "free disk", f"{free:.1f} GiB")
    ledger = user_dir("state") / "ledger.jsonl"
    yield Check("folders", "test ledger", f"{ledger} ({_scorings(ledger)})")


def _hub() -> Iterator[Check]:
    """Whether gated models can be asked for, and where downloads lie; the token itself is never shown."""
    from huggingface_hub import constants, get_token

    token = "present" if get_token() else "none (needed for gated models only: hf auth login)"
    yield Check("hub", "token", token)
    yield Check("hub", "download cache", str(constants.HF_HUB_CACHE))
    if constants.HF_HUB_OFFLINE:
        yield Check("hub", "network", "offline mode is on: only downloaded models load")


def _extras() -> Iterator[Check]:
    """Optional groups of packages, and the line that installs what is missing."""
    missing: dict[str, list[str]] = {}
    for requirement in _requirements():
        extra = _extra_of(requirement)
        if extra is None or extra == "dev":
            continue
        missing.setdefault(extra, [])
        if provenance.library_version(requirement.name) == "not installed":
            missing[extra].append(requirement.name)
    for extra, names in sorted(missing.items()):
        absent = f"not installed: {', '.join(names)} (pip install 'histotune[{extra}]')"
        yield Check("extras", extra, absent if names else "installed")


def _trials(device: ComputeDevice) -> Iterator[Check]:
    """Multiply matrices on the chosen device in each precision; imports torch."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("trial", "torch", f"does not import: {error}", "warning", "pip install --force-reinstall torch")
        return
    if device.kind == "cuda" and not torch.cuda.is_available():
        line = torch_install_line(driver_cuda_version())
        yield Check("trial", "torch", "torch.cuda.is_available() is False", "warning", line)
        return
    precisions = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device.kind == "cuda":
        precisions["fp16"] = torch.float16
    for name, dtype in precisions.items():
        yield _trial(device, name, dtype)


def _trial(device: ComputeDevice, name: str, dtype: torch.dtype) -> Check:
    """Time one product and hold it against float64 on the CPU."""
    import torch

    side = 4096 if device.kind == "cuda" else 512
    a_NN = torch.randn(side, side, generator=torch.Generator().manual_seed(0))
    try:
        seconds = _best_product_s(a_NN.to(device.kind, dtype))
        corner = (a_NN[:64].to(device.kind, dtype) @ a_NN.to(device.kind, dtype)).double().cpu()
    except RuntimeError as error:
        return Check("trial", name, str(error).splitlines()[0], "warning", "choose another --set embedding.precision")
    deviation = float((corner - a_NN[:64].double() @ a_NN.double()).abs().max()) / side**0.5
    speed = f"{2 * side**3 / seconds / 1e9:,.0f} GFLOP/s, largest error {deviation:.1e} of the standard deviation"
    return Check("trial", name, speed, "ok" if deviation < 0.1 else "warning")


def _best_product_s(a_NN: torch.Tensor) -> float:
    """Return the shortest of five timed products, after one to warm up."""
    import torch

    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        a_NN @ a_NN
        if a_NN.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _nvidia_smi_gpus() -> str:
    """Return the first GPU nvidia-smi lists, and how many more; empty where it does not work."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    names = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode != 0 or not names:
        return ""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _requirements() -> list[Requirement]:
    """Return what histotune declares it needs, extras included."""
    from packaging.requirements import Requirement

    return [Requirement(text) for text in requires("histotune") or []]


def _extra_of(requirement: Requirement) -> str | None:
    """Return the extra a requirement belongs to, or None."""
    marker = str(requirement.marker or "")
    return marker.split("extra == ")[1].strip("\"' )") if "extra == " in marker else None


def _key(name: str) -> str:
    return name.lower().replace("_", "-")


def _folder_size(folder: Path) -> int:
    """Return the bytes of all files below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        except OSError:
            continue
    return total


def _scorings(ledger: Path) -> str:
    if not ledger.is_file():
        return "no scoring recorded yet"
    n = sum(1 for line in ledger.read_text(encoding="utf-8").splitlines() if line.strip())
    return f"{n} scoring{'' if n == 1 else 's'} recorded"
