"""How a protocol was run here: what must be known before its number may stand beside published ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunConditions:
    """The facts of a run that decide which published scores are of the same protocol.

    Attributes:
        dataset: Name of the data set, such as ``breakhis``.
        class_names: Its classes, by label.
        split: Name of the split; empty for the data set's own parts.
        part: The scored part.
        n_train: Labelled tiles that trained.
        n_valid: Labelled tiles that chose.
        n_scored: Labelled tiles that were scored.
        backbone: Name of the backbone.
        default_pooling: Column blocks that its authors recommend, joined by "+".
        view: How images became its input, as JSON; ``unknown`` for imported embeddings.
        view_documented: Whether that is the view which the backbone documents.
        settings: The protocol's settings, as JSON.
    """

    dataset: str
    class_names: tuple[str, ...]
    split: str
    part: str
    n_train: int
    n_valid: int
    n_scored: int
    backbone: str
    default_pooling: str
    view: dict[str, object]
    view_documented: bool
    settings: dict[str, object]
