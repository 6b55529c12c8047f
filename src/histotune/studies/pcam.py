"""PatchCamelyon on its official split: slides of the training part never meet those that are scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histotune.datasets.config import DatasetConfig
from histotune.studies.config import ExperimentConfig
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.studies.records import RecipeData


def pcam(data: RecipeData) -> ExperimentConfig:
    """Train a probe on the training part, score the valid part; the test part only with ``--final``.

    Expect: not measured on the whole data set. Published probes of pathology foundation models reach about 0.93
    balanced accuracy on the test part under other protocols (docs/protocols.md).
    Hardware: a GPU for the 327,680 embeddings of a large backbone; then minutes. Seed 0.

    Kaggle's copy (``train_labels.csv`` in the folder) has no official parts: it is cross-fitted like a source, over
    single patches, marked LEAKY, or over slides with ``--set source.slides_from=FOLDER_OF_THE_HDF5_FILES``.

    Command: ``histotune run pcam --data PCAM_FOLDER``

    Args:
        data: ``data`` is the PatchCamelyon folder (``pcam`` is accepted too).

    Returns:
        The complete config.

    Raises:
        UserError: No folder was given.
    """
    folder = data.data or data.pcam
    if folder is None:
        raise UserError("this recipe needs the PatchCamelyon folder", fix="add --data PATH/TO/PCAM")
    dataset = DatasetConfig(name="patch_camelyon", path=folder)
    role = "source" if (folder / "train_labels.csv").is_file() else "target"
    return ExperimentConfig.model_validate({"recipe": "pcam", role: dataset, "out": Path("runs/pcam")})
