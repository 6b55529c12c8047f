from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import kstest

from histotune.heads.config import (
    Choice,
    LogUniform,
    SgdConfig,
    SgdSettings,
    Stopping,
    Uniform,
    common_wandb_search,
    draw_trials,
)
from histotune.tools.errors import UserError


def test_a_grid_is_every_combination_in_order() -> None:
    space = {"lr": Choice(values=(1e-2, 1e-3)), "optimizer": Choice(values=("Adam", "SGD"))}
    trials = draw_trials(SgdConfig(method="grid", space=space))
    assert [(t.lr, t.optimizer) for t in trials] == [(1e-2, "Adam"), (1e-2, "SGD"), (1e-3, "Adam"), (1e-3, "SGD")]


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_draws_follow_their_distributions_and_their_seed(method: str) -> None:
    space = {
        "lr": LogUniform(low=1e-7, high=1e-3),
        "weight_decay": Uniform(low=0.0, high=0.5),
        "optimizer": Choice(values=("AdamW", "Adam", "SGD")),
    }
    config = SgdConfig.model_validate({"method": method, "n_trials": 500, "space": space})
    trials = draw_trials(config)
    assert trials == draw_trials(config) != draw_trials(config.model_copy(update={"seed": 1}))
    assert kstest([(np.log10(t.lr) + 7) / 4 for t in trials], "uniform").pvalue > 1e-3
    assert kstest([t.weight_decay * 2 for t in trials], "uniform").pvalue > 1e-3
    counts = np.unique([t.optimizer for t in trials], return_counts=True)[1]
    assert len(counts) == 3 and counts.min() > 120


def test_sobol_fills_the_space_more_evenly_than_chance() -> None:
    config = SgdConfig(n_trials=64, space={"lr": LogUniform(low=1e-4, high=1e-1)})
    places = [int((np.log10(t.lr) + 4) / 3 * 64) for t in draw_trials(config)]
    assert sorted(places) == list(range(64))
    by_chance = draw_trials(config.model_copy(update={"method": "random"}))
    assert len({int((np.log10(t.lr) + 4) / 3 * 64) for t in by_chance}) < 55


def test_the_common_wandb_search() -> None:
    trials = draw_trials(common_wandb_search(200))
    assert len(trials) == 200
    assert {t.optimizer for t in trials} == {"AdamW", "Adam", "SGD"}
    assert all(1e-7 <= t.lr <= 1e-3 for t in trials)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="lr: log-uniform"):
        draw_trials(SgdConfig(method="grid"))
    with pytest.raises(UserError, match="too large"):
        draw_trials(SgdConfig(method="grid", space={"lr": Choice(values=tuple(range(1, 200_000)))}))
    with pytest.raises(UserError, match="momentum"):
        draw_trials(SgdConfig(method="grid", space={"momentum": Choice(values=(1.5,))}))
    for wrong in ({"space": {"learning_rate": {"kind": "choice", "values": [1]}}}, {"trials": 5}):
        with pytest.raises(ValidationError):
            SgdConfig.model_validate(wrong)
    with pytest.raises(ValidationError):
        SgdSettings.model_validate({"optimiser": "SGD"})
    with pytest.raises(ValidationError, match="patience"):
        Stopping(patience=3)
    with pytest.raises(ValidationError, match="momentum"):
        SgdSettings(nesterov=True, momentum=0.0)


def test_settings_round_trip_through_json() -> None:
    config = common_wandb_search()
    assert SgdConfig.model_validate_json(config.model_dump_json()) == config


def test_importing_the_package_does_not_import_torch() -> None:
    code = (
        "import sys, importlib, pkgutil, histotune.heads.sgd as p\n"
        "for m in pkgutil.iter_modules(p.__path__): importlib.import_module('histotune.heads.sgd.' + m.name)\n"
        "assert not {'torch', 'scipy', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
