"""The colour histogram of the view: a floor that knows colour and nothing of shape."""

from histotune.backbones.entry import CatalogEntry, Licence, Overlap, cite
from histotune.backbones.spec import BackboneSpec

COLOUR_HISTOGRAM = CatalogEntry(
    BackboneSpec(
        name="colour-histogram",
        kind="colour-histogram",
        source="colour-histogram-32",
        licence="none needed",
        citation="32 bins per RGB channel, as fractions of the view's pixels",
        overlap="none: nothing is trained",
    ),
    about="32 bins per RGB channel; a floor without weights",
    licence=Licence("none needed", True, True, True, False, "it has no weights"),
    dim=96,
    overlap=Overlap("no", "no", "no"),
    sources=(cite("32 bins x 3 channels; nothing is trained", "dim", "overlap"),),
)
