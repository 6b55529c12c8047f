"""Heads and embeddings become findings: cross-fit scores, floors, magnifications, external validation, the ledger."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.evaluation.config import EvaluationConfig as EvaluationConfig
    from histotune.evaluation.explain import TileExplanation as TileExplanation
    from histotune.evaluation.explain import draw_explanation as draw_explanation
    from histotune.evaluation.explain import explain_tile as explain_tile
    from histotune.evaluation.external import study_target as study_target
    from histotune.evaluation.findings import Finding as Finding
    from histotune.evaluation.findings import Findings as Findings
    from histotune.evaluation.findings import ScoredArm as ScoredArm
    from histotune.evaluation.held_out import study_source as study_source
    from histotune.evaluation.ledger import record_scoring as record_scoring
    from histotune.evaluation.magnifications import magnification_matrix as magnification_matrix
    from histotune.evaluation.material import Material as Material
    from histotune.evaluation.run_comparison import Contender as Contender
    from histotune.evaluation.run_comparison import RunComparison as RunComparison

FILES = {
    "Contender": "run_comparison",
    "EvaluationConfig": "config",
    "Finding": "findings",
    "Findings": "findings",
    "Material": "material",
    "RunComparison": "run_comparison",
    "ScoredArm": "findings",
    "TileExplanation": "explain",
    "draw_explanation": "explain",
    "explain_tile": "explain",
    "magnification_matrix": "magnifications",
    "record_scoring": "ledger",
    "study_source": "held_out",
    "study_target": "external",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
