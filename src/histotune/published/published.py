"""The settings that published protocols were run with, where they differ from a config's defaults."""

from __future__ import annotations

from histotune.published.config import EvaConfig


def eva_pcam_settings() -> EvaConfig:
    """Return eva's settings on PatchCamelyon: patience 3 epochs."""
    return EvaConfig(patience=3)


def eva_ten_shot_settings() -> EvaConfig:
    """Return eva's settings on PatchCamelyon with ten tiles per class: 50 runs, looked at every tenth epoch."""
    return EvaConfig(runs=50, shots=10, check_every=10, patience=125, min_delta=1e-4)
