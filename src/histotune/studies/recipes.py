"""BreakHis: one magnification trains, held-out cases of every magnification are scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histotune.datasets.config import DatasetConfig
from histotune.evaluation.config import EvaluationConfig
from histotune.studies.config import ExperimentConfig
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.studies.records import RecipeData


def breakhis(data: RecipeData) -> ExperimentConfig:
    """Cross-fit a probe on BreakHis by case, with the leak's price; carry it to PatchCamelyon where given.

    Expect: not measured on the whole data set. Patient-disjoint published work reaches 0.91 to 0.93 image accuracy
    with fine-tuned networks and 0.86 with a frozen one (docs/protocols.md).
    Hardware: any; seconds after the embeddings are there. Seed 0.

    Command: ``histotune run breakhis --data BreaKHis_v1 --train-magnification 100X``

    Args:
        data: ``data`` is the BreakHis folder, ``pcam`` an optional PatchCamelyon folder.

    Returns:
        The complete config.

    Raises:
        UserError: No BreakHis folder was given.
    """
    if data.data is None:
        raise UserError("this recipe needs the BreakHis folder", fix="add --data PATH/TO/BreaKHis_v1")
    return ExperimentConfig(
        recipe="breakhis",
        source=DatasetConfig(name="breakhis", path=data.data),
        target=None if data.pcam is None else DatasetConfig(name="patch_camelyon", path=data.pcam),
        evaluation=EvaluationConfig(train_magnification="100X"),
        out=Path("runs/breakhis"),
    )
