"""Settings of the embeddings room."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from histotune.tools.devices import DeviceChoice, Precision

Storage = Literal["fp32", "fp16"]
FIRST_BATCH = 32
"""What ``auto`` takes on CPUs, and where a search on a GPU begins."""


class EmbeddingConfig(BaseModel):
    """How embeddings are computed and kept.

    Attributes:
        device: ``auto`` takes a GPU where one can be used.
        precision: ``auto`` takes bf16 where fast, fp16 on Turing, fp32 otherwise.
        batch_size: Tiles per forward pass; halved when memory runs out. ``auto`` is 32 on CPUs; on GPUs it doubles
            while throughput gains and memory lasts, and is remembered.
        compile: ``auto`` compiles the network on GPUs where at least about 20,000 tiles are to be embedded.
        shard_tiles: Rows per shard, the unit of restart.
        threads: Compute threads; 0 leaves torch's choice.
        storage: ``fp16`` halves the room; a shard that would lose by it is kept in float32, with a note.
        wait_s: How long one of several processes waits for another that shows no sign of life, seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceChoice = "auto"
    precision: Precision = "auto"
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    shard_tiles: int = Field(512, ge=1)
    threads: int = Field(0, ge=0)
    storage: Storage = "fp32"
    wait_s: float = Field(300.0, gt=0)

    @property
    def first_batch_size(self) -> int:
        """The batch size as a number: 32 where it is still to be found."""
        return FIRST_BATCH if self.batch_size == "auto" else self.batch_size
