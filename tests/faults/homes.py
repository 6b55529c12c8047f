"""Small copies of the data sets' homes on a server of this machine, in place of the real ones."""

from __future__ import annotations

from histotune.datasets.fetch import fetch as fetch_module
from tests.datasets.fetch.made import breakhis_home, pcam_home
from tests.datasets.fetch.server import Server


def use_small_homes(port: int) -> None:
    """Let this process fetch from the small copies that :func:`fill` serves at a port.

    Args:
        port: On 127.0.0.1.
    """
    breakhis, pcam = breakhis_home(Server(port)), pcam_home(Server(port))
    fetch_module._breakhis = lambda: (breakhis,)
    fetch_module._pcam = lambda: (pcam,)


def fill(server: Server) -> None:
    """Put the small copies onto a server."""
    breakhis_home(server)
    pcam_home(server)
