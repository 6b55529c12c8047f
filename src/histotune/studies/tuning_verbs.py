"""The verb that fine-tunes a backbone beside its probe, as ``import histotune as ht`` and the command line give it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from histotune.studies.arguments import Fields, Place, assignments, command_of, config_of
from histotune.studies.config import ExperimentConfig, override
from histotune.studies.recipes import with_finetuning

if TYPE_CHECKING:
    from histotune.datasets.tileset import TileSet
    from histotune.studies.experiment import RunResult


def finetune(
    tiles: TileSet | str | ExperimentConfig,
    backbone: str | None = None,
    data: Place | None = None,
    *,
    method: str | None = None,
    train_magnification: str | None = None,
    pcam: Place | None = None,
    outer: int | None = None,
    fraction: float | None = None,
    final: bool = False,
    out: Place | None = None,
    cache: Place | None = None,
    set: Fields = None,
) -> RunResult:
    """Fine-tune a backbone from its probe on, and say whether that helped.

    Every outer fold chooses on groups of its own training part, never on the ones that it scores; the probe is kept
    unless the tuned model is better on those groups by a standard error. The run folder holds the tuned head and its
    adapter in ``head-tuned``, which every other verb takes.

    Args:
        tiles: What :func:`read` gave, or a data set's name.
        backbone: As for :func:`embed`.
        data: Folder of the data set, where it is named.
        method: ``lora``, ``dora``, ``last-blocks`` (default), ``full`` or ``norm``.
        train_magnification: Magnification that trains, such as ``100X``.
        pcam: PatchCamelyon folder: the tuned head is carried over to it.
        outer: Outer folds; 1 holds a fifth of the groups out once, which is a fifth of the time.
        fraction: Share of the slides or cases to learn from, such as 0.01: whole ones, drawn by seed. Of official parts
            the training part alone is thinned out.
        final: Score the test part; every scoring is counted.
        out: Run folder; appears when finished.
        cache: Folder for embeddings, the output of frozen blocks, and what an interrupted run goes on from.
        set: Further fields, such as ``{"finetune.loop.epochs": 5}``.

    Returns:
        The finished run: probe and tuned model side by side.

    Raises:
        UserError: A method that the backbone does not take, an adapter on an adapter, anything that :func:`run` tells.

    Example:
        >>> import histotune as ht
        >>> few = {"sweep.folds": 2, "evaluation.outer_folds": 2, "finetune.loop.epochs": 1, "finetune.views": 1}
        >>> run = ht.finetune("breakhis", "lite0", "BreaKHis_v1", train_magnification="100X", out="run", set=few)
        >>> [row.arm for row in run.inputs.findings.findings[0].rows][:2]
        ['probe', 'fine-tuned']
    """
    from histotune.studies.experiment import run_experiment

    typed: dict[str, Any] = {
        "train_magnification": train_magnification,
        "pcam": pcam,
        "final": final,
        "method": method,
        "outer": outer,
        "fraction": fraction,
    }
    config = config_of(tiles, data, backbone=backbone, out=out, cache=cache, **typed)
    config = config if isinstance(tiles, ExperimentConfig) else with_finetuning(config)
    return run_experiment(override(config, assignments(set)), command_of("finetune"))
