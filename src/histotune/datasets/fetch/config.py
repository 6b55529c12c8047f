"""Settings of a fetch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class NetworkConfig(BaseModel):
    """How patient a download is.

    Attributes:
        stall_s: A connection that brings nothing for this long is given up and resumed on a new one, in seconds.
        slowest_bytes_per_s: So is one that stays slower than this over ``slow_window_s``, in bytes per second.
        slow_window_s: Length of that window, in seconds.
        attempts: Attempts in a row that may bring less than ``progress_bytes`` each before the address is given up.
        first_attempts: The same while no byte has arrived and no server has answered: no network fails soon.
        progress_bytes: What an attempt must bring beyond the furthest point so far to count as progress.
        backoff_s: Wait before the second attempt, doubled each time, with jitter, in seconds.
        backoff_limit_s: Longest such wait, in seconds.
        retry_after_limit_s: Longest wait that a server may ask for (Retry-After), in seconds.
        redirects: Redirects followed for one request.
        chunk_bytes: Most bytes read at once.
        lock_wait_s: How long to wait for another process that fetches into the same folder, in seconds.
        margin_bytes: Free space to leave on the disk.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stall_s: float = Field(60.0, gt=0)
    slowest_bytes_per_s: float = Field(1024.0, ge=0)
    slow_window_s: float = Field(60.0, gt=0)
    attempts: int = Field(8, ge=1)
    first_attempts: int = Field(3, ge=1)
    progress_bytes: int = Field(1 << 20, ge=1)
    backoff_s: float = Field(1.0, ge=0)
    backoff_limit_s: float = Field(60.0, ge=0)
    retry_after_limit_s: float = Field(300.0, ge=0)
    redirects: int = Field(5, ge=0)
    chunk_bytes: int = Field(1 << 17, ge=1)
    lock_wait_s: float = Field(86_400.0, ge=0)
    margin_bytes: int = Field(1 << 30, ge=0)
