"""BreakHis: one magnification trains, held-out cases of every magnification are scored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.backbones.entries import BackboneConfig
from histotune.datasets.config import DatasetConfig
from histotune.datasets.synthetic.cohort import SyntheticConfig
from histotune.evaluation.config import EvaluationConfig
from histotune.finetune.config import FinetuneConfig, LoopConfig
from histotune.heads.config import SweepConfig
from histotune.published.protocols import EvaConfig, ThunderConfig, UniConfig, eva_pcam_settings, eva_ten_shot_settings
from histotune.studies.config import ExperimentConfig
from histotune.tools.errors import UserError, closest_name
from histotune.tools.files import user_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from histotune.published.protocols import ProtocolConfig


def breakhis(data: RecipeData) -> ExperimentConfig:
    """Cross-fit a probe on BreakHis by case, with the leak's price; carry it to PatchCamelyon where given.

    Expect: not measured on the whole data set. Patient-disjoint published work reaches 0.91 to 0.93 image accuracy
    with fine-tuned networks and 0.86 with a frozen one (docs/protocols.md).
    Hardware: any; seconds after the embeddings are there. Seed 0.

    Command: ``histotune run breakhis --data BreaKHis_v1 --train-magnification 100X``
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


# ------------------------------------------------------------------------------
# The main job on synthetic tissue: needs no download, no GPU and no account.


def demo(data: RecipeData) -> ExperimentConfig:
    """Train a head on synthetic BreakHis at 200X; score every magnification, then synthetic PatchCamelyon.

    Expect, over 10 seeds of the cohort (docs/synthetic.md holds the table): AUROC on held-out cases between 0.75 and
    0.92; at least 0.08 more from a random image split; at least 0.10 less at 40X.
    Hardware: two CPU cores, under 3 minutes the first time and 5 seconds after. Seed 0.

    Command: ``histotune demo``
    """
    del data
    cohort = user_dir("cache") / "synthetic"
    return ExperimentConfig(
        recipe="demo",
        cohort=SyntheticConfig(),
        cohort_path=cohort,
        source=DatasetConfig(name="breakhis", path=cohort / "breakhis"),
        target=DatasetConfig(name="patch_camelyon", path=cohort / "pcam"),
        evaluation=EvaluationConfig(train_magnification="200X", final=True),
        out=Path("runs/demo"),
    )


def with_quick_finetune(config: ExperimentConfig) -> ExperimentConfig:
    """Return the demo with the last stage of its backbone trained: 18 trainings of 5 epochs."""
    loop = LoopConfig(epochs=5, batch_size=16, lr=1e-3)
    return config.model_copy(update={"finetune": FinetuneConfig(loop=loop, inner_folds=2, views=2)})


# ------------------------------------------------------------------------------
# Midnight-12k on BreakHis and PatchCamelyon: the experiment histotune was built for.


def midnight(data: RecipeData) -> ExperimentConfig:
    """The ``breakhis`` recipe with ``kaiko-ai/midnight``, both poolings (CLS; CLS and patch mean) in the sweep.

    Expect: not measured. The random-weight floor embeds everything a second time; leave it out with
    ``--set 'evaluation.floors=["majority","colour-histogram","untuned"]'`` where hours matter.
    Hardware: one GPU with 6 GB or more (fp16 on a T4). Seed 0.

    Command: ``histotune run midnight --data BreaKHis_v1 --pcam PCAM_FOLDER --train-magnification 40X``
    """
    return breakhis(data).model_copy(
        update={
            "recipe": "midnight",
            "backbone": BackboneConfig(name="midnight"),
            "sweep": SweepConfig(poolings=(("cls",), ("cls", "patch_mean"))),
            "out": Path("runs/midnight"),
        }
    )


# ------------------------------------------------------------------------------
# PatchCamelyon on its official split: slides of the training part never meet those that are scored.


def pcam(data: RecipeData) -> ExperimentConfig:
    """Train a probe on the training part, score the valid part; the test part only with ``--final``.

    Expect: not measured on the whole data set. Published probes of pathology foundation models reach about 0.93
    balanced accuracy on the test part under other protocols (docs/protocols.md).
    Hardware: a GPU for the 327,680 embeddings of a large backbone; then minutes. Seed 0.

    Kaggle's copy (``train_labels.csv`` in the folder) has no official parts: it is cross-fitted like a source, over
    single patches, marked LEAKY, or over slides with ``--set source.slides_from=FOLDER_OF_THE_HDF5_FILES``.

    Command: ``histotune run pcam --data PCAM_FOLDER``
    """
    folder = data.data or data.pcam
    if folder is None:
        raise UserError("this recipe needs the PatchCamelyon folder", fix="add --data PATH/TO/PCAM")
    dataset = DatasetConfig(name="patch_camelyon", path=folder)
    role = "source" if (folder / "train_labels.csv").is_file() else "target"
    return ExperimentConfig.model_validate({"recipe": "pcam", role: dataset, "out": Path("runs/pcam")})


# ------------------------------------------------------------------------------
# Published protocols as recipes: each repeats how others made their numbers, and says what weakens them.


def eva_breakhis(data: RecipeData) -> ExperimentConfig:
    """Eva's BreakHis (kaiko-eva 0.4.5): 40X, four classes, five runs, stopped and scored on the same 339 images.

    Expect: the published values (`histotune leaderboard`); not measured here on the whole data set.
    Hardware: any; a minute on two cores once the embeddings are there. Seed 0.

    Command: ``histotune run eva-breakhis --data BreaKHis_v1 --backbone midnight``
    """
    return _breakhis("eva-breakhis", "eva", EvaConfig(), data)


def eva_pcam(data: RecipeData) -> ExperimentConfig:
    """Eva's PatchCamelyon: five runs, patience 3 epochs, the epoch chosen on the valid part.

    Expect: the published values (`histotune leaderboard`); not measured here on the whole data set.
    Hardware: a GPU for the embeddings of a large backbone. Seed 0.

    Command: ``histotune run eva-pcam --data PCAM --backbone midnight --final``
    """
    return _pcam("eva-pcam", eva_pcam_settings(), data)


def eva_pcam_10shot(data: RecipeData) -> ExperimentConfig:
    """Eva's PatchCamelyon with ten tiles per class: 50 runs, the valid part checked every tenth epoch.

    Expect: the published values (`histotune leaderboard`); not measured here on the whole data set.
    Hardware: a GPU for the embeddings of a large backbone. Seed 0.

    Command: ``histotune run eva-pcam-10shot --data PCAM --backbone midnight --final``
    """
    return _pcam("eva-pcam-10shot", eva_ten_shot_settings(), data)


def thunder_breakhis(data: RecipeData) -> ExperimentConfig:
    """THUNDER's BreakHis (thunder-bench 0.2.2): nine linear heads, kNN and SimpleShot; eva's patients are the test.

    Expect: the published values (`histotune leaderboard`); not measured here on the whole data set.
    Hardware: any; a minute on two cores once the embeddings are there. Seed 0.

    Command: ``histotune run thunder-breakhis --data BreaKHis_v1 --backbone midnight --final``
    """
    return _breakhis("thunder-breakhis", "thunder", ThunderConfig(), data)


def thunder_pcam(data: RecipeData) -> ExperimentConfig:
    """THUNDER's PatchCamelyon: nine linear heads, kNN and SimpleShot on the official parts.

    Expect: the published values (`histotune leaderboard`); not measured here on the whole data set.
    Hardware: a GPU; 200 epochs over 262,144 embeddings. Seed 0.

    Command: ``histotune run thunder-pcam --data PCAM --backbone midnight --final``
    """
    return _pcam("thunder-pcam", ThunderConfig(), data)


def uni_breakhis(data: RecipeData) -> ExperimentConfig:
    """UNI's tasks (its repository's code) on THUNDER's parts of BreakHis.

    Expect: not measured; UNI's authors did not publish BreakHis on these parts.
    Hardware: any; seconds once the embeddings are there. Seed 0.

    Command: ``histotune run uni-breakhis --data BreaKHis_v1 --backbone midnight --final``
    """
    return _breakhis("uni-breakhis", "thunder", UniConfig(), data)


def uni_pcam(data: RecipeData) -> ExperimentConfig:
    """UNI's tasks (its repository's code) on the official parts of PatchCamelyon.

    Expect: not measured here on the whole data set.
    Hardware: a GPU for the embeddings and the neighbours. Seed 0.

    Command: ``histotune run uni-pcam --data PCAM --backbone midnight --final``
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


# ------------------------------------------------------------------------------
# What a recipe is given.


@dataclass(frozen=True)
class RecipeData:
    """Where the user's files are.

    Attributes:
        data: Folder of the recipe's own data set; None where the recipe needs none.
        pcam: Folder of PatchCamelyon as a second data set; None skips external validation and direct training.
    """

    data: Path | None = None
    pcam: Path | None = None


# ------------------------------------------------------------------------------
# The user's own tiles, from a table, from class folders, or through a Python file of their own.


def tiles(data: RecipeData) -> ExperimentConfig:
    """Cross-fit a probe on one's own tiles by group; where groups are unknown, over single tiles, marked LEAKY.

    Expect: whatever your data says; the floors in every table tell what a number is worth.
    Hardware: any; a small backbone embeds some ten tiles a second on two cores. Seed 0.

    Command: ``histotune run tiles --data tiles.csv``
    """
    if data.data is None:
        raise UserError("this recipe needs your tiles", fix="add --data tiles.csv, or --data FOLDER_OF_CLASS_FOLDERS")
    return ExperimentConfig(
        recipe="tiles",
        source=DatasetConfig(name="tiles", path=data.data),
        target=None if data.pcam is None else DatasetConfig(name="patch_camelyon", path=data.pcam),
        out=Path("runs/tiles"),
    )


def python_file(code: Path, data: RecipeData) -> ExperimentConfig:
    """The ``tiles`` recipe for any data set that a Python file of the user's reads.

    Command: ``histotune run my_dataset.py --data FOLDER``
    """
    from histotune.datasets.tiles import code_sha256

    if data.data is None:
        raise UserError("this reader needs to know where the data lies", value=code, fix="add --data FOLDER")
    source = DatasetConfig(name="python", path=data.data, code=code.absolute(), code_sha256=code_sha256(code))
    config = tiles(data).model_copy(update={"recipe": code.stem, "source": source})
    return config.model_copy(update={"out": Path("runs") / code.stem})


# ------------------------------------------------------------------------------
# Fine-tuning beside the probe: the same studies with a backbone that learns.


def finetune_breakhis(data: RecipeData) -> ExperimentConfig:
    """The ``breakhis`` recipe with the last block of the backbone trained, from the probe on.

    Expect: not measured on the whole data set. On 14 cases of the real sample nothing can be told.
    Hardware: minutes on two cores with a small backbone; one GPU with 16 GB for Midnight. Seed 0.

    Command: ``histotune run finetune-breakhis --data BreaKHis_v1 --train-magnification 100X``
    """
    return _finetuned("finetune-breakhis", breakhis(data))


def finetune_pcam(data: RecipeData) -> ExperimentConfig:
    """The ``pcam`` recipe with the last block trained on the training part; a quarter of its slides judge.

    ``--fraction 0.1`` learns from a tenth of the slides, drawn by seed and kept in the config; ``0.01`` from a
    hundredth, which are two or three: whether fine-tuning helped can't be asked of so few, and the probe is returned.

    Expect: not measured on the whole data set.
    Hardware: one GPU with 16 GB. The output of the frozen blocks of 262,144 tiles is too large to keep with a large
    backbone: ``--fraction`` and ``--set target.max_tiles_per_split=...`` take a part, and
    ``--set finetune.prefix.storage=off`` computes it in every step. Seed 0.

    Command: ``histotune run finetune-pcam --data PCAM_FOLDER --fraction 0.1``
    """
    return _finetuned("finetune-pcam", pcam(data))


def finetune_tiles(data: RecipeData) -> ExperimentConfig:
    """The ``tiles`` recipe with the last block of the backbone trained, from the probe on.

    Expect: whatever your data says; the probe is returned where fine-tuning is not borne out.
    Hardware: minutes on two cores with a small backbone. Seed 0.

    Command: ``histotune run finetune-tiles --data tiles.csv``
    """
    return _finetuned("finetune-tiles", tiles(data))


def _finetuned(recipe: str, config: ExperimentConfig) -> ExperimentConfig:
    """Return a study that fine-tunes, under a name and in a folder of its own."""
    return with_finetuning(config).model_copy(update={"recipe": recipe, "out": Path("runs") / recipe})


def with_finetuning(config: ExperimentConfig) -> ExperimentConfig:
    """Return a config that fine-tunes and holds the result against its probe and the classes' shares alone.

    The probe, which training starts from, is the one that ranks best out of fold: of few cases the least log-loss often
    chooses a head that says next to nothing (docs/finetune.md).
    """
    evaluation = config.evaluation.model_copy(update={"floors": ("majority",), "leak_price": False})
    sweep, finetune = config.sweep.model_copy(update={"selection_rule": "auroc"}), config.finetune or FinetuneConfig()
    return config.model_copy(update={"evaluation": evaluation, "sweep": sweep, "finetune": finetune})


# ------------------------------------------------------------------------------
# Recipes by name.


PROTOCOLS = (eva_breakhis, eva_pcam, eva_pcam_10shot, thunder_breakhis, thunder_pcam, uni_breakhis, uni_pcam)
FINETUNED = (finetune_breakhis, finetune_pcam, finetune_tiles)
RECIPES = (demo, breakhis, pcam, midnight, tiles, *FINETUNED, *PROTOCOLS)


def recipe_names() -> tuple[str, ...]:
    """Return the recipes' names.

    Returns:
        The names as they are typed on the command line.
    """
    return tuple(recipe.__name__.replace("_", "-") for recipe in RECIPES)


def find_recipe(name: str) -> Callable[[RecipeData], ExperimentConfig]:
    """Return a recipe by its name.

    Args:
        name: Such as "breakhis", or the path of a Python file with a reader of one's own (``my_dataset.py``).

    Returns:
        The function that builds its config.

    Raises:
        UserError: Unknown name; the closest one is offered.
    """
    if name.endswith(".py"):
        return partial(python_file, Path(name).expanduser())
    by_name = dict(zip(recipe_names(), RECIPES, strict=True))
    if name not in by_name:
        raise UserError("unknown recipe", value=name, allowed=", ".join(by_name), closest=closest_name(name, by_name))
    return by_name[name]
