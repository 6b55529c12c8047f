"""Which trials a search tries: every combination, random draws, or Sobol points."""

# T trials, P settings that vary

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from histotune.heads.sgd.config import Choice, LogUniform, SgdConfig, SgdSettings
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.sgd.config import Distribution

    Float = NDArray[np.float64]


MAX_GRID = 100_000


def draw_trials(config: SgdConfig) -> tuple[SgdSettings, ...]:
    """Return the settings of every trial of a search.

    Args:
        config: Space, method, number of trials and seed.

    Returns:
        Trials in the order of the search; a grid varies its last setting fastest.

    Raises:
        UserError: A grid over a continuous setting, a grid too large, or a drawn value a setting doesn't allow.

    Example:
        >>> config = SgdConfig(method="grid", space={"lr": Choice(values=(1e-3, 1e-4))})
        >>> [trial.lr for trial in draw_trials(config)]
        [0.001, 0.0001]
    """
    names, distributions = tuple(config.space), tuple(config.space.values())
    if config.method == "grid":
        rows = _grid(names, distributions)
    else:
        unit_TP = _unit_points(config.method, config.n_trials, len(names), np.random.default_rng(config.seed))
        rows = [
            tuple(_at(distribution, float(u)) for distribution, u in zip(distributions, point, strict=True))
            for point in unit_TP
        ]
    return tuple(_settings(config.base, dict(zip(names, row, strict=True))) for row in rows)


def _grid(names: Sequence[str], distributions: Sequence[Distribution]) -> list[tuple[float | int | str, ...]]:
    values = []
    for name, distribution in zip(names, distributions, strict=True):
        if not isinstance(distribution, Choice):
            raise UserError("a grid needs the values of every setting it varies", value=f"{name}: {distribution.kind}",
                            fix="--set sweep.sgd.method=sobol, or give choices")  # fmt: skip
        values.append(distribution.values)
    size = int(np.prod([len(part) for part in values]))
    if size > MAX_GRID:
        raise UserError("this grid is too large", value=f"{size:,} trials", allowed=f"at most {MAX_GRID:,}",
                        fix="--set sweep.sgd.method=sobol --set sweep.sgd.n_trials=1000")  # fmt: skip
    return list(itertools.product(*values))


def _unit_points(method: str, n_trials: int, n_settings: int, rng: np.random.Generator) -> Float:
    """Return points of the unit cube (T, P); Sobol's are scrambled (Owen), cut from the next power of two."""
    if method == "random" or not n_settings:
        return rng.random((n_trials, n_settings))
    from scipy.stats import qmc

    sampler = qmc.Sobol(n_settings, scramble=True, seed=rng)
    return np.asarray(sampler.random_base2((n_trials - 1).bit_length())[:n_trials])


def _at(distribution: Distribution, u: float) -> float | int | str:
    """Return the value below which a share ``u`` of the distribution lies."""
    if isinstance(distribution, Choice):
        return distribution.values[min(int(u * len(distribution.values)), len(distribution.values) - 1)]
    low, high = distribution.low, distribution.high
    if isinstance(distribution, LogUniform):
        return float(np.exp(np.log(low) + u * (np.log(high) - np.log(low))))
    return low + u * (high - low)


def _settings(base: SgdSettings, values: dict[str, float | int | str]) -> SgdSettings:
    try:
        return SgdSettings.model_validate({**base.model_dump(), **values})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(f"the search drew a value that {name or 'a head'} doesn't allow ({first['msg']})",
                        value=values.get(name, values), fix=f"change sweep.sgd.space.{name}")  from error  # fmt: skip
