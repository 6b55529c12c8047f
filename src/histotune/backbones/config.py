"""Settings of the backbones room."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class BackboneConfig(BaseModel):
    """Which backbone embeds the tiles.

    Attributes:
        name: Catalog name (``lite0``, ``midnight``), ``timm/ARCHITECTURE``, a hub id, or a local folder.
        revision: Hub revision; empty takes the catalog's pinned one.
        weights: A checkpoint file or folder for ``timm/ARCHITECTURE``, instead of its pretrained weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "lite0"
    revision: str = ""
    weights: str = ""
