"""Settings of the backbones room."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class BackboneConfig(BaseModel):
    """Which backbone embeds the tiles.

    Attributes:
        name: Catalog name (``lite0``, ``midnight``), ``timm/ARCHITECTURE``, a hub id, or a local folder.
        revision: Hub revision; empty takes the catalog's pinned one.
        weights: A checkpoint file or folder instead of the hub's weights, for ``timm/ARCHITECTURE`` and catalog names.
        adapter: PEFT adapter merged into the weights: a local folder, or ``ORGANISATION/NAME[/FOLDER]`` on the hub;
            ``none`` leaves out the catalog's.
        adapter_revision: Hub revision of the adapter; empty takes the catalog's pinned one, or ``main``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "lite0"
    revision: str = ""
    weights: str = ""
    adapter: str = ""
    adapter_revision: str = ""
