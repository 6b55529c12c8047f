"""Whole studies, from a config to a folder: run, transfer, matrix, compare; recipes; what is kept of every trial."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.studies.compare import read_contenders as read_contenders
    from histotune.studies.config import ExperimentConfig as ExperimentConfig
    from histotune.studies.experiment import RunResult as RunResult
    from histotune.studies.experiment import run_experiment as run_experiment
    from histotune.studies.matrix import run_matrix as run_matrix
    from histotune.studies.protocol import run_protocol as run_protocol
    from histotune.studies.recipes import find_recipe as find_recipe
    from histotune.studies.recipes import recipe_names as recipe_names
    from histotune.studies.stages import embed_only as embed_only
    from histotune.studies.stages import estimate_only as estimate_only
    from histotune.studies.stages import evaluate_head as evaluate_head
    from histotune.studies.stages import sweep_tiles as sweep_tiles
    from histotune.studies.transfer import run_transfer as run_transfer

FILES = {
    "ExperimentConfig": "config",
    "RunResult": "experiment",
    "embed_only": "stages",
    "estimate_only": "stages",
    "evaluate_head": "stages",
    "find_recipe": "recipes",
    "read_contenders": "compare",
    "recipe_names": "recipes",
    "run_experiment": "experiment",
    "run_matrix": "matrix",
    "run_protocol": "protocol",
    "run_transfer": "transfer",
    "sweep_tiles": "stages",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
