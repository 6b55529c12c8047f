"""Settings of the heads room."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from histotune.heads.sgd.config import SgdConfig

ClassWeight = Literal["none", "balanced"]
FamilyName = Literal["logistic", "ridge", "sgd"]
SelectionRule = Literal["best", "one-se"]
Honesty = Literal["none", "nested", "bias-corrected"]
CalibrationKind = Literal["none", "temperature", "vector"]
ThresholdRule = Literal["0.5", "balanced-accuracy", "youden", "sensitivity"]


def default_penalties() -> tuple[float, ...]:
    """Return 16 penalties from 1e-4 to 1e3, log-spaced (lambda of the mean loss on standardised columns)."""
    return tuple(float(f"{value:.4g}") for value in np.logspace(-4, 3, 16))


class LabelEfficiencyConfig(BaseModel):
    """Whether a sweep also tells how its score depends on the number of training groups.

    Attributes:
        draws: Random orders of the training groups, whose beginnings are the subsets; 0 leaves it out, since it takes
            folds x draws x sizes x penalties more fits.
        sizes: Numbers of training groups; empty takes 4, 8, 16, ... and all there are.
        seed: Seed of the draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    draws: int = Field(0, ge=0)
    sizes: tuple[int, ...] = ()
    seed: int = 0


class SweepConfig(BaseModel):
    """Which heads are tried and how one is chosen.

    Attributes:
        family: Kind of head: ``logistic`` (L2 logistic regression), ``ridge`` (least squares on -1 and 1, in closed
            form, scores scaled to logits out of fold) or ``sgd``.
        penalties: L2 penalties lambda; the objective is mean log-loss + lambda / 2 * |w|^2 on standardised columns,
            so scikit-learn's C is 1 / (n * lambda). For ``ridge`` half the mean squared error stands for the
            log-loss, so alpha is n * lambda.
        poolings: Sets of column blocks; empty tries the backbone's default pooling.
        class_weights: Class weightings to try: ``none``, ``balanced`` (classes weigh the same in the training loss),
            or both.
        folds: Folds of the grouped cross-validation that chooses.
        selection: Criterion, lower is better.
        selection_rule: ``best`` takes the lowest loss; ``one-se`` the strongest penalty, within the best trial's
            pooling and weighting, whose paired loss difference from the best is at most one standard error.
        honesty: How the whole procedure's own performance is estimated, since the selected score is optimistic:
            ``bias-corrected`` resamples groups and scores each resample's choice on the groups left out, which costs
            next to nothing; ``nested`` repeats the sweep inside every fold; ``none`` leaves the score optimistic.
        calibration: ``temperature`` where it improves the cross-validated log-loss, else none; ``vector`` scales and
            shifts each class, with 50 groups or more.
        threshold: What the threshold of a binary head is chosen for, on out-of-fold predictions; ``0.5`` is the
            most probable class. ``youden`` is the same cut as ``balanced-accuracy``.
        sensitivity: Sensitivity that the rule ``sensitivity`` keeps, at the highest specificity.
        sgd: What the family ``sgd`` tries; it has no use for penalties.
        seed: Seed of the folds.
        max_iterations: Iterations after which a fit that has not converged is reported as such.
        device: Where logistic regression is solved; ``auto`` takes a GPU that can be used, for problems large enough
            to gain from it. Ridge is one decomposition per training set and stays on the processor.
        label_efficiency: Score against the number of training groups.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: FamilyName = "logistic"
    penalties: tuple[float, ...] = Field(default_factory=default_penalties, min_length=1)
    poolings: tuple[tuple[str, ...], ...] = ()
    class_weights: tuple[ClassWeight, ...] = Field(("none",), min_length=1)
    folds: int = Field(5, ge=2)
    selection: Literal["group-balanced-log-loss"] = "group-balanced-log-loss"
    selection_rule: SelectionRule = "best"
    honesty: Honesty = "bias-corrected"
    calibration: CalibrationKind = "temperature"
    threshold: ThresholdRule = "balanced-accuracy"
    sensitivity: float = Field(0.95, gt=0, le=1)
    sgd: SgdConfig = SgdConfig()
    seed: int = 0
    max_iterations: int = Field(2000, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    label_efficiency: LabelEfficiencyConfig = Field(default_factory=LabelEfficiencyConfig)

    @model_validator(mode="before")
    @classmethod
    def _read_one_weighting(cls, data: object) -> object:
        """Read the configs of older runs, which named a single ``class_weight``."""
        if isinstance(data, dict) and "class_weight" in data and "class_weights" not in data:
            data = {**data, "class_weights": (data["class_weight"],)}
            del data["class_weight"]
        return data
