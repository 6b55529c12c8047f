"""A best value at the end of what was tried, in words, with the wider range to try."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histotune.finetune.config import FinetuneConfig, SearchRange, TrialSettings


NEAR = 0.05
"""A value this close to an end, as a share of the range, counts as the end."""
WORDS = {
    "lr": "learning rate",
    "head_lr": "learning rate of the head",
    "weight_decay": "weight decay",
    "epochs": "number of epochs",
    "rank": "rank",
    "n_blocks": "number of blocks",
    "layer_decay": "layer decay",
    "augmentation": "strength of augmentation",
}
WHOLE = ("epochs", "rank", "n_blocks")
LOWEST = {"epochs": 1.0, "rank": 1.0, "n_blocks": 1.0, "augmentation": 0.0, "weight_decay": 0.0}
HIGHEST = {"layer_decay": 1.0}
"""Where a setting itself ends."""


def edge_warnings(config: FinetuneConfig, best: TrialSettings) -> tuple[str, ...]:
    """Return a sentence for every setting whose best value is the end of what was tried.

    Args:
        config: What was tried: its search, or its learning rates.
        best: The candidate of least tuning loss.

    Returns:
        Sentences with the setting to change; none where the best lies inside, or where the setting itself ends.
    """
    if config.search is None:
        return tuple(_edge_of_rates(config.rates, best.lr))
    varied = config.search.space.varied()
    return tuple(words for name, one in varied.items() for words in _edge(name, one, float(getattr(best, name))))


def _edge_of_rates(rates: Sequence[float], best: float) -> Iterator[str]:
    ordered = sorted(set(rates))
    if len(ordered) > 1 and best in (ordered[0], ordered[-1]):
        end = "lowest" if best == ordered[0] else "highest"
        more = _one_more(ordered, best)
        yield f"the best learning rate, {short(best)}, is the {end} that was tried; try --set finetune.rates={more}"


def _edge(name: str, one: SearchRange, best: float) -> Iterator[str]:
    """Yield a sentence where the best value is the end of a range."""
    if best in (LOWEST.get(name), HIGHEST.get(name)):
        return
    if one.values:
        ordered = sorted(set(one.values))
        if len(ordered) > 1 and best in (ordered[0], ordered[-1]):
            yield _sentence(name, best, f"'{{\"values\": {_one_more(ordered, best)}}}'")
    elif not NEAR < _place(one, best) < 1.0 - NEAR:
        yield _sentence(name, best, wider_range(name, one, best))


def _sentence(name: str, best: float, wider: str) -> str:
    tried = f"--set finetune.search.space.{name}={wider}"
    return f"the best {WORDS[name]}, {short(best)}, is the end of the range that was tried; try {tried}"


def _place(one: SearchRange, value: float) -> float:
    """Return where a value lies in its range, 0 to 1."""
    low, high = (math.log(one.low), math.log(one.high)) if one.log else (one.low, one.high)
    return ((math.log(value) if one.log else value) - low) / (high - low)


def wider_range(name: str, one: SearchRange, best: float) -> str:
    """Return a range as wide as the one that was tried, with its best value in the middle.

    Example:
        >>> from histotune.finetune.config import SearchRange
        >>> wider_range("lr", SearchRange(low=1e-5, high=1e-3, log=True), 1e-3)
        '[1e-4,1e-2]'
    """
    half = math.sqrt(one.high / one.low) if one.log else (one.high - one.low) / 2.0
    low, high = (best / half, best * half) if one.log else (best - half, best + half)
    low, high = max(low, LOWEST.get(name, low)), min(high, HIGHEST.get(name, high))
    ends = (math.floor(low), math.ceil(high)) if name in WHOLE else (low, high)
    return f"[{','.join(short(end) for end in ends)}]"


def _one_more(ordered: Sequence[float], best: float) -> str:
    """Return values with one more beyond the best of them, as far from it as its neighbour is."""
    neighbour = ordered[1] if best == ordered[0] else ordered[-2]
    beyond = best * best / neighbour if ordered[0] > 0 else max(2.0 * best - neighbour, 0.0)
    return f"[{','.join(short(value) for value in sorted({*ordered, beyond}))}]"


def short(value: float) -> str:
    """Return a number in few characters that JSON reads.

    Example:
        >>> short(0.00031), short(0.25), short(12)
        ('3.1e-4', '0.25', '12')
    """
    if value == 0 or 0.01 < abs(value) < 1e4:
        return f"{value:.3g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
