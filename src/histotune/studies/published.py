"""Published protocols as recipes: each repeats how others made their numbers, and says what weakens them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histotune.datasets.config import DatasetConfig
from histotune.evaluation.config import EvaluationConfig
from histotune.published.leaderboard import eva_pcam_settings, eva_ten_shot_settings
from histotune.published.records import EvaConfig, ThunderConfig, UniConfig
from histotune.studies.config import ExperimentConfig
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.published.records import ProtocolConfig
    from histotune.studies.records import RecipeData


def eva_breakhis(data: RecipeData) -> ExperimentConfig:
    """Eva's BreakHis (kaiko-eva 0.4.5): 40X, four classes, five runs, stopped and scored on the same 339 images.

    Expect: the published values (`histotune leaderboard`); not measured here on the whole data set.
    Hardware: any; a minute on two cores once the embeddings are there. Seed 0.

    Command: ``histotune run eva-breakhis --data BreaKHis_v1 --backbone midnight``

    Args:
        data: ``data`` is the BreakHis folder.

    Returns:
        The complete config.
    """
    return _breakhis("eva-breakhis", "eva", EvaConfig(), data)


def eva_pcam(data: RecipeData) -> ExperimentConfig:
    """Eva's PatchCamelyon: five runs, patience 3 epochs, the epoch chosen on the valid part.

    Expect: the published values (`histotune leaderboard`); not measured here on the whole data set.
    Hardware: a GPU for the embeddings of a large backbone. Seed 0.

    Command: ``histotune run eva-pcam --data PCAM --backbone midnight --final``

    Args:
        data: ``data`` is the PatchCamelyon folder.

    Returns:
        The complete config.
    """
    return _pcam("eva-pcam", eva_pcam_settings(), data)


def eva_pcam_10shot(data: RecipeData) -> ExperimentConfig:
    """Eva's PatchCamelyon with ten tiles per class: 50 runs, the valid part checked every tenth epoch.

    Expect: the published values (`histotune leaderboard`); not measured here on the whole data set.
    Hardware: a GPU for the embeddings of a large backbone. Seed 0.

    Command: ``histotune run eva-pcam-10shot --data PCAM --backbone midnight --final``

    Args:
        data: ``data`` is the PatchCamelyon folder.

    Returns:
        The complete config.
    """
    return _pcam("eva-pcam-10shot", eva_ten_shot_settings(), data)


def thunder_breakhis(data: RecipeData) -> ExperimentConfig:
    """THUNDER's BreakHis (thunder-bench 0.2.2): nine linear heads, kNN and SimpleShot; eva's patients are the test.

    Expect: the published values (`histotune leaderboard`); not measured here on the whole data set.
    Hardware: any; a minute on two cores once the embeddings are there. Seed 0.

    Command: ``histotune run thunder-breakhis --data BreaKHis_v1 --backbone midnight --final``

    Args:
        data: ``data`` is the BreakHis folder.

    Returns:
        The complete config.
    """
    return _breakhis("thunder-breakhis", "thunder", ThunderConfig(), data)


def thunder_pcam(data: RecipeData) -> ExperimentConfig:
    """THUNDER's PatchCamelyon: nine linear heads, kNN and SimpleShot on the official parts.

    Expect: the published values (`histotune leaderboard`); not measured here on the whole data set.
    Hardware: a GPU; 200 epochs over 262,144 embeddings. Seed 0.

    Command: ``histotune run thunder-pcam --data PCAM --backbone midnight --final``

    Args:
        data: ``data`` is the PatchCamelyon folder.

    Returns:
        The complete config.
    """
    return _pcam("thunder-pcam", ThunderConfig(), data)


def uni_breakhis(data: RecipeData) -> ExperimentConfig:
    """UNI's tasks (its repository's code) on THUNDER's parts of BreakHis.

    Expect: not measured; UNI's authors did not publish BreakHis on these parts.
    Hardware: any; seconds once the embeddings are there. Seed 0.

    Command: ``histotune run uni-breakhis --data BreaKHis_v1 --backbone midnight --final``

    Args:
        data: ``data`` is the BreakHis folder.

    Returns:
        The complete config.
    """
    return _breakhis("uni-breakhis", "thunder", UniConfig(), data)


def uni_pcam(data: RecipeData) -> ExperimentConfig:
    """UNI's tasks (its repository's code) on the official parts of PatchCamelyon.

    Expect: not measured here on the whole data set.
    Hardware: a GPU for the embeddings and the neighbours. Seed 0.

    Command: ``histotune run uni-pcam --data PCAM --backbone midnight --final``

    Args:
        data: ``data`` is the PatchCamelyon folder.

    Returns:
        The complete config.
    """
    return _pcam("uni-pcam", UniConfig(), data)


def _breakhis(recipe: str, split: str, protocol: ProtocolConfig, data: RecipeData) -> ExperimentConfig:
    if data.data is None:
        raise UserError("this protocol needs the BreakHis folder", fix="add --data PATH/TO/BreaKHis_v1")
    return ExperimentConfig(
        recipe=recipe,
        source=DatasetConfig(name="breakhis", path=data.data, labels="eva4"),
        evaluation=EvaluationConfig(split=split, allow_leaky=True),
        protocol=protocol,
        out=Path("runs") / recipe,
    )


def _pcam(recipe: str, protocol: ProtocolConfig, data: RecipeData) -> ExperimentConfig:
    folder = data.data or data.pcam
    if folder is None:
        raise UserError("this protocol needs the PatchCamelyon folder", fix="add --data PATH/TO/PCAM")
    target = DatasetConfig(name="patch_camelyon", path=folder)
    return ExperimentConfig(recipe=recipe, target=target, protocol=protocol, out=Path("runs") / recipe)
