"""Print the exact version of every package that histotune's dependencies brought into this environment.

Run by ``make constraints`` in an environment of newest versions. What torch pins itself (CUDA libraries, triton) is
left to torch's own metadata, so that the file serves every platform and every build of torch.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PINNED_BY_TORCH = re.compile(r"nvidia-|cuda-|triton$")
LEFT_OUT = {"histotune", "setuptools", "pip"}
HEADER = """\
# The exact versions histotune is developed and tested with; `make` and CI install these.
# Written by `make constraints` with Python 3.11, the oldest supported one; do not edit by hand.
# The CUDA libraries and triton are missing on purpose: torch's own metadata pins them per platform.
"""


def installed_tree(name: str, extras: frozenset[str], found: dict[tuple[str, frozenset[str]], str]) -> None:
    """Collect a package and everything it requires here into ``found``: (name, extras) -> version."""
    key = (canonicalize_name(name), extras)
    if key in found:
        return
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return
    found[key] = str(Version(package.version).public)
    for text in package.requires or []:
        requirement = Requirement(text)
        if applies(requirement, extras):
            installed_tree(requirement.name, frozenset(requirement.extras), found)


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Return whether a requirement counts on this platform with these extras."""
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def main() -> None:
    """Print the constraints file."""
    extras = frozenset(distribution("histotune").metadata.get_all("Provides-Extra") or ())
    found: dict[tuple[str, frozenset[str]], str] = {}
    installed_tree("histotune", extras, found)
    pins = {name: version for (name, _), version in found.items()}
    kept = {name: version for name, version in pins.items() if name not in LEFT_OUT and not PINNED_BY_TORCH.match(name)}
    sys.stdout.write(HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(kept.items())))


if __name__ == "__main__":
    main()
