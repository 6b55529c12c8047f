"""The colour histogram of the view: a floor that knows colour and nothing of shape."""

from histotune.backbones.records import BackboneSpec

COLOUR_HISTOGRAM = BackboneSpec(
    name="colour-histogram",
    kind="colour-histogram",
    source="colour-histogram-32",
    licence="none needed",
    citation="32 bins per RGB channel, as fractions of the view's pixels",
    overlap="none: nothing is trained",
)
