"""PatchCamelyon: lymph-node patches, in whichever of its published copies lies in a folder."""

from histotune.datasets.patch_camelyon.read import read_patch_camelyon
from histotune.datasets.pcam_files import SPEC

__all__ = ["SPEC", "read_patch_camelyon"]
