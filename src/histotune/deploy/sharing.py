"""Whether weights, or a head alone, may be passed on: what the backbone's licence says, and which clause says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.backbones.merged_folder import CLAUSES, UNREAD, licence_of, shown_name

if TYPE_CHECKING:
    from histotune.backbones.entries import Licence
    from histotune.backbones.spec import BackboneSpec

NO_COPY = "its terms: no copy of the model may be passed on"
BOUND = (
    "its terms count models that were trained on its outputs as derivatives, so that the head alone is bound as well"
)


@dataclass(frozen=True)
class Sharing:
    """What the licence of a backbone lets one do with an export.

    Attributes:
        licence: The licence.
        weights_refusal: Why its weights may not be passed on, in a sentence with the clause; empty where they may.
        head_refusal: The same for the head without any weights.
    """

    licence: Licence
    weights_refusal: str
    head_refusal: str


def sharing_of(spec: BackboneSpec) -> Sharing:
    """Return what the licence of a backbone says about passing on its weights, and a head that was trained on it.

    Args:
        spec: The backbone; with an adapter its weights are changed ones.

    Returns:
        The answers; what its text does not give, or what was not read, counts as refused for the weights.

    Example:
        >>> from histotune.backbones import BackboneConfig, find_backbone
        >>> sharing_of(find_backbone(BackboneConfig(name="lite0"))).weights_refusal
        ''
    """
    licence = licence_of(spec)
    answer = licence.share_derivatives if spec.adapter else licence.share_weights
    kind = "changed weights" if spec.adapter else "the weights"
    refusal = ""
    if not answer:
        where = "" if licence.source == "its files" else f"; {licence.source}"
        verb = "does not let" if answer is False else "is not known to let"
        refusal = (
            f"the licence of {shown_name(spec)}, {licence.name}, {verb} one pass on {kind} "
            f"({_clause(licence, spec, answer)}{where})"
        )
    return Sharing(licence, refusal, BOUND if licence.outputs_restricted else "")


def _clause(licence: Licence, spec: BackboneSpec, answer: bool | None) -> str:
    if answer is None:
        return UNREAD.replace("changed weights", "weights") if not spec.adapter else UNREAD
    known = (clause for name, clause in CLAUSES.items() if licence.name.startswith(name))
    return next(known, "its clause on derivatives") if spec.adapter else NO_COPY


def notice_lines(spec: BackboneSpec, sharing: Sharing, *, with_weights: bool) -> list[str]:
    """Return what lies in an exported folder about its licences.

    Args:
        spec: The backbone.
        sharing: From :func:`sharing_of`.
        with_weights: Whether its weights are in the folder.
    """
    licence = sharing.licence
    at = f" at {spec.revision}" if spec.revision else ""
    lines = [
        f"Backbone: {shown_name(spec)}{at}",
        f"Licence of the backbone: {licence.name} ({licence.source})",
    ]
    if with_weights:
        lines.append("It holds for the weights in this folder, too, and so do the terms of the training data.")
        if spec.adapter:
            lines.append("These weights are not the published ones: fine-tuning has changed them.")
    else:
        lines.append("This folder holds a head alone. Get the backbone from its own page, under its own terms.")
    refusal = sharing.weights_refusal if with_weights else sharing.head_refusal
    if refusal:
        lines += ["", f"FOR OWN USE ONLY. Do not pass this folder on: {refusal}."]
    return lines
