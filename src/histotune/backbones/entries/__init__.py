"""The named backbones, one file each."""

from histotune.backbones.entries.colour_histogram import COLOUR_HISTOGRAM
from histotune.backbones.entries.lite0 import LITE0
from histotune.backbones.entries.midnight import MIDNIGHT

ENTRIES = (LITE0, MIDNIGHT, COLOUR_HISTOGRAM)
