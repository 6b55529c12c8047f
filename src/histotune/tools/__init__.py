"""What any room may use: errors with their fix, files, locks and hashes, devices, progress, provenance, the doctor."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.tools.devices import ComputeDevice as ComputeDevice
    from histotune.tools.devices import find_device as find_device
    from histotune.tools.doctor import diagnose as diagnose
    from histotune.tools.errors import UserError as UserError
    from histotune.tools.files import hash_file as hash_file
    from histotune.tools.files import write_json as write_json
    from histotune.tools.progress import Stopwatch as Stopwatch
    from histotune.tools.progress import track as track
    from histotune.tools.provenance import collect_provenance as collect_provenance

FILES = {
    "ComputeDevice": "devices",
    "Stopwatch": "progress",
    "UserError": "errors",
    "collect_provenance": "provenance",
    "diagnose": "doctor",
    "find_device": "devices",
    "hash_file": "files",
    "track": "progress",
    "write_json": "files",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
