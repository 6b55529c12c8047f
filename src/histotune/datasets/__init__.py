"""Files on disk become a :class:`TileSet`: readers, splits, fetching, rendered cohorts.

``read.py`` goes from a name to a reader and its subset; ``rows.py`` checks what any reader found; ``tileset.py`` is the
one place where groups are made. ``splits/`` makes and finds splits, ``fetch/`` downloads, ``synthetic/`` renders.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.datasets.config import DatasetConfig as DatasetConfig
    from histotune.datasets.croissant import write_croissant as write_croissant
    from histotune.datasets.dataset_spec import CandidateScale as CandidateScale
    from histotune.datasets.dataset_spec import ClassScheme as ClassScheme
    from histotune.datasets.dataset_spec import DatasetSpec as DatasetSpec
    from histotune.datasets.dataset_spec import known_specs as known_specs
    from histotune.datasets.fetch.fetch import plan_fetch as plan_fetch
    from histotune.datasets.read import read_dataset as read_dataset
    from histotune.datasets.rows import Tile as Tile
    from histotune.datasets.splits.folds import grouped_folds as grouped_folds
    from histotune.datasets.splits.named import find_split as find_split
    from histotune.datasets.splits.named import save_split as save_split
    from histotune.datasets.splits.split import Split as Split
    from histotune.datasets.synthetic.cohort import SyntheticConfig as SyntheticConfig
    from histotune.datasets.synthetic.cohort_folder import write_cohort as write_cohort
    from histotune.datasets.tileset import TileSet as TileSet

FILES = {
    "CandidateScale": "dataset_spec",
    "ClassScheme": "dataset_spec",
    "DatasetConfig": "config",
    "DatasetSpec": "dataset_spec",
    "Split": "splits.split",
    "SyntheticConfig": "synthetic.cohort",
    "Tile": "rows",
    "TileSet": "tileset",
    "find_split": "splits.named",
    "grouped_folds": "splits.folds",
    "known_specs": "dataset_spec",
    "plan_fetch": "fetch.fetch",
    "read_dataset": "read",
    "save_split": "splits.named",
    "write_cohort": "synthetic.cohort_folder",
    "write_croissant": "croissant",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
