"""The named backbones, one file for each family."""

from histotune.backbones.entries.bioptimus import H0_MINI, H_OPTIMUS_0, H_OPTIMUS_1
from histotune.backbones.entries.colour_histogram import COLOUR_HISTOGRAM
from histotune.backbones.entries.dinov2 import DINOV2
from histotune.backbones.entries.dinov3 import DINOV3
from histotune.backbones.entries.gigapath import PROV_GIGAPATH
from histotune.backbones.entries.gpfm import GPFM
from histotune.backbones.entries.kaiko import KAIKO
from histotune.backbones.entries.lite0 import LITE0
from histotune.backbones.entries.lunit import LUNIT
from histotune.backbones.entries.midnight import MIDNIGHT, MIDNIGHT_SPECTRA
from histotune.backbones.entries.openmidnight import OPENMIDNIGHT
from histotune.backbones.entries.owkin import PHIKON, PHIKON_V2
from histotune.backbones.entries.own_code import OWN_CODE
from histotune.backbones.entries.plip import PLIP
from histotune.backbones.entries.resnet50 import RESNET50
from histotune.backbones.entries.uni import UNI, UNI2_H
from histotune.backbones.entries.virchow import VIRCHOW, VIRCHOW2

ENTRIES = (
    LITE0, MIDNIGHT, MIDNIGHT_SPECTRA, OPENMIDNIGHT, *KAIKO, UNI, UNI2_H, VIRCHOW, VIRCHOW2, H_OPTIMUS_0, H_OPTIMUS_1,
    H0_MINI, PROV_GIGAPATH, PHIKON, PHIKON_V2, GPFM, *LUNIT, PLIP, *DINOV2, *DINOV3, RESNET50, COLOUR_HISTOGRAM,
    *OWN_CODE,
)  # fmt: skip
