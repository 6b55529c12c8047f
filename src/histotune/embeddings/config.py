"""Settings of the embeddings room."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from histotune.devices import DeviceChoice, Precision

Storage = Literal["fp32", "fp16"]


class EmbeddingConfig(BaseModel):
    """How embeddings are computed and kept.

    Attributes:
        device: ``auto`` takes a GPU where one can be used.
        precision: ``auto`` takes bf16 where fast, fp16 on Turing, fp32 otherwise.
        batch_size: Tiles per forward pass; halved when memory runs out.
        shard_tiles: Rows per shard, the unit of restart.
        threads: Compute threads; 0 leaves torch's choice.
        storage: ``fp16`` halves the room; a shard that would lose by it is kept in float32, with a note.
        wait_s: How long one of several processes waits for another that shows no sign of life, seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceChoice = "auto"
    precision: Precision = "auto"
    batch_size: int = Field(32, ge=1)
    shard_tiles: int = Field(512, ge=1)
    threads: int = Field(0, ge=0)
    storage: Storage = "fp32"
    wait_s: float = Field(300.0, gt=0)
