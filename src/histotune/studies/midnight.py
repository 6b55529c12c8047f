"""Midnight-12k on BreakHis and PatchCamelyon: the experiment histotune was built for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histotune.backbones.spec import BackboneConfig
from histotune.heads.config import SweepConfig
from histotune.studies.recipes import breakhis

if TYPE_CHECKING:
    from histotune.studies.config import ExperimentConfig
    from histotune.studies.records import RecipeData


def midnight(data: RecipeData) -> ExperimentConfig:
    """The ``breakhis`` recipe with ``kaiko-ai/midnight``, both poolings (CLS; CLS and patch mean) in the sweep.

    Expect: not measured. The random-weight floor embeds everything a second time; leave it out with
    ``--set 'evaluation.floors=["majority","colour-histogram","untuned"]'`` where hours matter.
    Hardware: one GPU with 6 GB or more (fp16 on a T4). Seed 0.

    Command: ``histotune run midnight --data BreaKHis_v1 --pcam PCAM_FOLDER --train-magnification 40X``

    Args:
        data: ``data`` is the BreakHis folder, ``pcam`` an optional PatchCamelyon folder.

    Returns:
        The complete config.
    """
    return breakhis(data).model_copy(
        update={
            "recipe": "midnight",
            "backbone": BackboneConfig(name="midnight"),
            "sweep": SweepConfig(poolings=(("cls",), ("cls", "patch_mean"))),
            "out": Path("runs/midnight"),
        }
    )
