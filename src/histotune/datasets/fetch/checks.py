"""Is a file what it should be: its length and hashes against the published ones, and what to say where none exist."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from histotune.datasets.fetch.records import Digest
from histotune.tools.errors import UserError
from histotune.tools.progress import track_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.datasets.fetch.records import Checksums, RemoteFile

BLOCK_BYTES = 1 << 20


def digest_file(path: Path) -> Digest:
    """Hash a file in one pass.

    Args:
        path: The file.

    Returns:
        Length, MD5 and SHA-256.
    """
    md5, sha256, size_bytes = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    with path.open("rb") as stream, track_bytes(f"verifying {path.name}", path.stat().st_size) as advance:
        while block := stream.read(BLOCK_BYTES):
            md5.update(block)
            sha256.update(block)
            size_bytes += len(block)
            advance(len(block))
    return Digest(size_bytes, md5.hexdigest(), sha256.hexdigest())


def mismatches(digest: Digest, checksums: Checksums, size_bytes: int | None = None) -> list[str]:
    """Return what differs from the published facts, one phrase each; empty where all agrees.

    Args:
        digest: The file on disk.
        checksums: Published hashes.
        size_bytes: Published length, None where there is none.
    """
    found = []
    if size_bytes is not None and digest.size_bytes != size_bytes:
        found.append(f"it has {digest.size_bytes:,} bytes, not {size_bytes:,}")
    if checksums.md5 is not None and digest.md5 != checksums.md5:
        found.append(f"its MD5 is {digest.md5}, not {checksums.md5}")
    if checksums.sha256 is not None and digest.sha256 != checksums.sha256:
        found.append(f"its SHA-256 is {digest.sha256}, not {checksums.sha256}")
    return found


def require_match(digest: Digest, file: RemoteFile) -> None:
    """Refuse a file that is not the published one.

    Args:
        digest: The file on disk.
        file: What is published.

    Raises:
        UserError: Length or a hash differs; the message has both.
    """
    found = mismatches(digest, file.checksums, file.size_bytes)
    if found:
        raise UserError(f"{file.name} is not the published file: {'; '.join(found)}")


def describe_check(checksums: Checksums) -> str:
    """Return how a file with these published hashes is verified, as a phrase."""
    names = [name for name, value in (("MD5", checksums.md5), ("SHA-256", checksums.sha256)) if value is not None]
    return f"{' and '.join(names)} as published" if names else "no checksum is published"
