"""What a command takes on a rented machine and what it costs there, with the commands that launch it: none is run."""

from __future__ import annotations

import math
import re
import shlex
import tomllib
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING

from histotune.finetune.estimate_tuning import MachinePrice, machine_prices
from histotune.tools.atomic import claimed
from histotune.tools.errors import UserError, closest_name
from histotune.tools.files import write_text
from histotune.tools.progress import time_words
from histotune.tools.table import ShownAsTables, Table, columns_of, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from histotune.backbones.spec import BackboneSpec
    from histotune.studies.config import ExperimentConfig


REACHED = (0.3, 0.7)
"""Part of a card's matrix rate that a large backbone reaches: the plain network, and the target of our benchmark."""
AMI = "/aws/service/deeplearning/ami/x86_64/oss-nvidia-driver-gpu-pytorch-2.8-ubuntu-24.04/latest/ami-id"
YAML, USER_DATA = "g4dn.yaml", "user-data.sh"
BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.=/-]*)?")


@dataclass(frozen=True)
class CloudTime:
    """How long a command takes on a machine.

    Attributes:
        hours: Least and most; NaN where nothing is known.
        basis: How that is known, in one sentence.
    """

    hours: tuple[float, float]
    basis: str

    @property
    def is_known(self) -> bool:
        """Whether there is a time at all."""
        return not math.isnan(self.hours[0])


@dataclass(frozen=True)
class LaunchOptions:
    """Where and how a command is launched.

    Attributes:
        machine: Kind of machine, as AWS calls it.
        results: ``s3://BUCKET/PREFIX`` that keeps what was done; empty keeps nothing behind the machine's end.
        package: What is installed there: a requirement, or a wheel in a bucket.
        folder: Where the two files are, as the printed commands name it.
        disk_gb: Size of the machine's disk.
    """

    machine: str = "g4dn.xlarge"
    results: str = ""
    package: str = "histotune[s3]"
    folder: str = "cloud"
    disk_gb: int = 200


@dataclass(frozen=True)
class CloudPlan(ShownAsTables):
    """What a command takes and costs on a rented machine, and the commands that launch it.

    Attributes:
        command: The command.
        price: The machine.
        time: How long it takes there.
        options: How it is launched.
        set_up_h: Assumed time to start, install and fetch weights, hours.
    """

    command: tuple[str, ...]
    price: MachinePrice
    time: CloudTime
    options: LaunchOptions
    set_up_h: float = 0.2

    def usd(self, *, spot: bool) -> tuple[float, float]:
        """Return the least and the most that it costs, setting up included; NaN where time or price is not known."""
        rate = self.price.spot_usd_per_hour if spot else self.price.usd_per_hour
        low, high = (rate * (hours + self.set_up_h) for hours in self.time.hours)
        return low, high

    @property
    def launch_lines(self) -> tuple[str, ...]:
        """The commands that launch it, two ways, each on demand and spot; a person copies one of them."""
        yaml, script = f"{self.options.folder}/{YAML}", f"{self.options.folder}/{USER_DATA}"
        disk = f"DeviceName=/dev/sda1,Ebs={{VolumeSize={self.options.disk_gb},VolumeType=gp3,DeleteOnTermination=true}}"
        words = (
            "aws", "ec2", "run-instances", "--region", self.price.region, "--image-id", f"resolve:ssm:{AMI}",
            "--instance-type", self.price.name, "--user-data", f"file://{script}", "--block-device-mappings", disk,
            "--metadata-options", "HttpTokens=required,HttpPutResponseHopLimit=2",
            "--instance-initiated-shutdown-behavior", "terminate", "--iam-instance-profile", "Name=PROFILE",
        )  # fmt: skip
        own = shlex.join(words)
        return (
            shlex.join(("sky", "launch", "--cluster", "histotune", "--down", yaml)),
            shlex.join(("sky", "jobs", "launch", "--name", "histotune", "--use-spot", yaml)),
            own,
            f"{own} --instance-market-options MarketType=spot",
        )

    def tables(self) -> tuple[Table, ...]:
        """Return time and price, on demand and as a spot machine."""
        columns = columns_of(("way", "USD an hour", "hours", "USD"), right=("USD an hour", "hours", "USD"))
        rows = [("on demand", *self._cells(spot=False)), ("spot", *self._cells(spot=True))]
        price = self.price
        cards = f"{price.n_cards} x {price.card}" if price.n_cards > 1 else price.card
        notes = (
            self.time.basis,
            f"Prices of {price.date} in {price.region}, read at {price.source}. They change: ask your provider. Disks, "
            "traffic and interrupted hours come on top.",
            f"To each price {time_words(self.set_up_h)} are added to start, install and fetch weights: assumed.",
        )
        return (Table(f"{price.name} ({cards}): histotune {shlex.join(self.command)}", columns, rows_of(rows), notes),)

    def _cells(self, *, spot: bool) -> tuple[str, str, str]:
        rate = self.price.spot_usd_per_hour if spot else self.price.usd_per_hour
        hours = _between(self.time.hours, "{:,.1f}") if self.time.is_known else "not known"
        known = not math.isnan(rate)
        usd = _between(self.usd(spot=spot), "{:,.2f}") if known and self.time.is_known else "not known"
        return f"{rate:.3f}" if known else "not known", hours, usd


def plan_cloud(command: Sequence[str], time: CloudTime, options: LaunchOptions) -> CloudPlan:
    """Put a command, its time and a machine together.

    Args:
        command: A command of histotune's, without the first word.
        time: How long it takes on that machine: :func:`time_of`.
        options: Machine, bucket, package.

    Returns:
        Prices and commands; nothing is launched and nothing written.

    Raises:
        UserError: A machine without a price, or a bucket that can't be one; both together.

    Example:
        >>> time = CloudTime((2.0, 4.0), "Assumed.")
        >>> plan = plan_cloud(("embed", "breakhis", "--data", "d"), time, LaunchOptions())
        >>> [round(usd, 2) for usd in plan.usd(spot=False)]
        [1.16, 2.21]
    """
    price = find_machine(options.machine)
    for name, value in (("--results", options.results), ("--package", options.package)):
        if value.startswith("s3:") and BUCKET.fullmatch(value) is None:
            raise UserError(f"{name} is no place in a bucket", value=value, allowed="s3://BUCKET/PREFIX")
    if options.results and not options.results.startswith("s3://"):
        raise UserError("--results is no place in a bucket", value=options.results, allowed="s3://BUCKET/PREFIX")
    return CloudPlan(tuple(command), price, time, replace(options, results=options.results.rstrip("/")))


def find_machine(name: str) -> MachinePrice:
    """Return a machine by its name.

    Raises:
        UserError: No price of it is known.
    """
    known = {one.name: one for one in machine_prices()}
    if name not in known:
        raise UserError(
            "no price is known for this machine",
            value=name,
            closest=closest_name(name, known),
            allowed=", ".join(known),
            fix=f"--machine {next(iter(known))}",
        )
    return known[name]


def write_launch_files(plan: CloudPlan, folder: Path) -> tuple[Path, Path]:
    """Write SkyPilot's task and the script for the machine's first start, with the command filled in.

    Args:
        plan: What is to be launched.
        folder: Where to; files of these names there are replaced.

    Returns:
        The two files.
    """
    values = {
        "COMMAND": shlex.join(("histotune", *plan.command)),
        "PACKAGE": plan.options.package,
        "RESULTS": plan.options.results,
    }
    yaml, script = folder / YAML, folder / USER_DATA
    with claimed(yaml, script, folder=False):
        task = _filled(launch_text(YAML), "  {}: ", {name: _yaml_text(value) for name, value in values.items()})
        machine = {"instance_type": plan.price.name, "disk_size": str(plan.options.disk_gb)}
        machine["infra"] = f"aws/{plan.price.region}"
        write_text(yaml, _filled(task, "  {}: ", machine))
        write_text(script, _filled(launch_text(USER_DATA), "{}=", {k: shlex.quote(v) for k, v in values.items()}))
    return yaml, script


def launch_text(name: str) -> str:
    """Return one of the two files as it is shipped."""
    return resources.files(__package__).joinpath("cloud").joinpath(name).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------
# How long it takes there


def time_of(config: ExperimentConfig, machine: MachinePrice, n_tiles: int | None, *, tunes: bool) -> CloudTime:
    """Say how long an experiment takes on a machine.

    Where this computer has the machine's own card, a few batches or steps are timed on it. Elsewhere the embedding of a
    backbone with known layers is computed from the card's data sheet; fine-tuning is not guessed.

    Args:
        config: What is to be done.
        machine: Where.
        n_tiles: Tiles to embed; None reads the data set.
        tunes: Whether a backbone is fine-tuned.

    Returns:
        The time and how it is known.

    Raises:
        UserError: The data set is not here and its number of tiles not given.
    """
    from histotune.studies.setup import backbone_of
    from histotune.tools.devices import find_device

    if tunes:
        return _tuning_time(config, machine, find_device().name)
    if n_tiles is None and find_device(config.embedding.device).name == machine.card:
        return _timed_embedding(config)
    spec = backbone_of(config.backbone, config.cache)
    return embedding_time(spec, machine, _count(config) if n_tiles is None else n_tiles)


def embedding_time(spec: BackboneSpec, machine: MachinePrice, n_tiles: int) -> CloudTime:
    """Compute the time of embedding from a card's data sheet: ``n FLOP / (rate x part reached)``, on all its cards.

    Args:
        spec: The backbone.
        machine: Where.
        n_tiles: Tiles.

    Returns:
        A range over the part reached; unknown for a backbone or card whose figures are not known.
    """
    flop = forward_flop(spec)
    tflops = card_tflops().get(machine.card, math.nan)
    if flop is None or math.isnan(tflops):
        what = spec.name if flop is None else machine.card
        own = f"The time is not known: no figures of {what} are at hand. On the machine: histotune embed ... --estimate"
        return CloudTime((math.nan, math.nan), own)
    rate = tflops * 1e12 * machine.n_cards
    low, high = (n_tiles * flop / (rate * part) / 3600 for part in reversed(REACHED))
    basis = (
        f"Computed, not timed: {n_tiles:,} tiles of {flop / 1e12:.2f} TFLOP at {REACHED[0]:.0%} to {REACHED[1]:.0%} of "
        f"{machine.n_cards} x {tflops:g} TFLOP/s, if reading keeps up. To time it there: histotune embed ... --estimate"
    )
    return CloudTime((low, high), basis)


def forward_flop(spec: BackboneSpec) -> float | None:
    """Return the floating-point operations of one image, for DINOv2 with SwiGLU; None for other networks.

    Per block 2 T (4 D^2 + 3 D F) + 4 T^2 D, T tokens, D columns, F of the SwiGLU; 2 (T - 1) 3 P^2 D for the patches.

    Args:
        spec: The backbone.
    """
    of: Mapping[str, object] = dict(spec.model_args)
    if of.get("model_type") != "dinov2" or not of.get("use_swiglu_ffn"):
        return None
    width, n_blocks, patch = (int(str(of[name])) for name in ("hidden_size", "num_hidden_layers", "patch_size"))
    tokens = (spec.size_px // patch) ** 2 + 1
    hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8  # as transformers rounds it
    block = 2 * tokens * (4 * width**2 + 3 * width * hidden) + 4 * tokens**2 * width
    return float(n_blocks * block + 2 * (tokens - 1) * 3 * patch**2 * width)


def card_tflops() -> dict[str, float]:
    """Return the dense half-precision rate of each known card, TFLOP/s."""
    text = resources.files(__package__).joinpath("cards.toml").read_text(encoding="utf-8")
    return {row["card"]: float(row["half_tflops"]) for row in tomllib.loads(text)["card"]}


def _tuning_time(config: ExperimentConfig, machine: MachinePrice, device: str) -> CloudTime:
    """Time fine-tuning where this is the machine's own card; elsewhere a time is not guessed."""
    from histotune.studies.tuning_estimate import estimate_finetuning

    if device != machine.card:
        own = f"The time is not known: fine-tuning is timed on the card itself, and here is {device}. "
        return CloudTime((math.nan, math.nan), f"{own}On the machine: histotune finetune ... --estimate")
    found = estimate_finetuning(config)
    return CloudTime(found.hours_between, f"Timed on this {device}: {found.words}. Embedding comes on top.")


def _timed_embedding(config: ExperimentConfig) -> CloudTime:
    from histotune.studies.stages import estimate_only

    found = estimate_only(config)
    words = f"Timed on this {found.device}: {found.images_per_s:,.1f} images/s, {found.n_missing:,} tiles to compute."
    return CloudTime(found.hours_between, words)


def _count(config: ExperimentConfig) -> int:
    """Return the number of tiles of a config's data sets that are here."""
    from histotune.datasets.read import read_dataset

    try:
        n_source = 0 if config.source is None else len(read_dataset(config.source, "source"))
        return n_source + (0 if config.target is None else len(read_dataset(config.target, "target")))
    except UserError as error:
        raise UserError(
            f"the tiles can't be counted: {error.what}",
            value=error.value,
            fix="say how many there are: histotune cloud plan --tiles 7909 -- COMMAND",
        ) from error


def _between(values: tuple[float, float], form: str) -> str:
    low, high = (form.format(value) for value in values)
    return low if low == high else f"{low} to {high}"


def _yaml_text(value: str) -> str:
    """Return a text as YAML reads it, in double quotes, without a line break."""
    if "\n" in value:
        raise UserError("a command with a line break in it can't be launched", value=value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _filled(text: str, form: str, values: Mapping[str, str]) -> str:
    """Return a file with the value behind each name replaced; every name stands at the beginning of one line."""
    lines = text.split("\n")
    for name, value in values.items():
        (place,) = (number for number, line in enumerate(lines) if line.startswith(form.format(name)))
        lines[place] = form.format(name) + value
    return "\n".join(lines)
