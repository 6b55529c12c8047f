"""Predictions become scores with intervals, curves with bands, and paired comparisons.

Records at the door (``predictions.py``), arrays inside: ``metrics.py`` holds the metrics,
``evaluators.py`` a metric as a function of group weights, ``intervals.py`` the interval that a metric earned.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.statistics.comparison import compare_arms as compare_arms
    from histotune.statistics.comparison import paired_difference as paired_difference
    from histotune.statistics.curves import curve_bands as curve_bands
    from histotune.statistics.mean_ranks import rank_arms as rank_arms
    from histotune.statistics.metrics import auroc as auroc
    from histotune.statistics.metrics import balanced_accuracy as balanced_accuracy
    from histotune.statistics.predictions import ComparisonConfig as ComparisonConfig
    from histotune.statistics.predictions import Interval as Interval
    from histotune.statistics.predictions import IntervalConfig as IntervalConfig
    from histotune.statistics.predictions import Predictions as Predictions
    from histotune.statistics.predictions import Score as Score
    from histotune.statistics.scores import score_predictions as score_predictions

FILES = {
    "ComparisonConfig": "predictions",
    "Interval": "predictions",
    "IntervalConfig": "predictions",
    "Predictions": "predictions",
    "Score": "predictions",
    "auroc": "metrics",
    "balanced_accuracy": "metrics",
    "compare_arms": "comparison",
    "curve_bands": "curves",
    "paired_difference": "comparison",
    "rank_arms": "mean_ranks",
    "score_predictions": "scores",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
