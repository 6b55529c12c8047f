"""How a record was made: the commit, the packages, the machine, and these scripts; what has to be equal to compare."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .differences import ABOUT, TIMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "histotune"


@dataclass(frozen=True)
class About:
    """How a record was made.

    Attributes:
        commit: The commit whose ``src`` was played; followed by "with changes" where the tree held others.
        source: A hash of all files of that ``src``.
        made: When, ISO 8601.
        python: Version of the interpreter.
        packages: Version by name of every installed package that histotune needs or can use.
        processor: The machine's processor; the last bits of a number depend on it.
        system: Operating system and architecture.
        scripts: A hash of the scenes, masks and readers.
        commands: Wildcards of the commands that were kept; empty where all were.
    """

    commit: str
    source: str
    made: str
    python: str
    packages: dict[str, str]
    processor: str
    system: str
    scripts: str
    commands: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """How it was made, in one line."""
        return (
            f"commit {self.commit[:12]}{self.commit[40:]}, {self.made}, Python {self.python}, "
            f"{len(self.packages)} packages, {self.processor}"
        )


def about_this(source: Path, commands: tuple[str, ...] = ()) -> About:
    """Return how a record of a ``src`` folder is made here and now."""
    return About(
        commit=commit_of(source),
        source=hash_files(source, "*.*"),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        python=platform.python_version(),
        packages=dict(packages_behind(PACKAGE)),
        processor=processor_name(),
        system=f"{platform.system()} {platform.machine()}",
        scripts=hash_files(Path(__file__).parent, "*.py", "*.csv"),
        commands=commands,
    )


@cache
def packages_behind(root: str) -> tuple[tuple[str, str], ...]:
    """Return the versions of what a package needs, of what that needs, and of the root's extras but for ``dev``."""
    found: dict[str, str] = {}
    waiting = [Requirement(root)]
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        if name in found:
            continue
        found[name] = installed.version
        needed = [Requirement(text) for text in installed.requires or ()]
        waiting += [one for one in needed if _counts(one, of_root=name == root)]
    found.pop(root, None)
    return tuple(sorted(found.items()))


def _counts(needed: Requirement, *, of_root: bool) -> bool:
    """Return whether a requirement holds here, an extra of the root included."""
    if needed.marker is None or needed.marker.evaluate({"extra": ""}):
        return True
    return of_root and 'extra == "dev"' not in str(needed.marker)


def commit_of(source: Path) -> str:
    """Return the commit of the tree that a folder belongs to, and whether the folder differs from it."""
    commit = git(source, "rev-parse", "HEAD")
    changed = git(source, "status", "--porcelain", "--", str(source))
    return f"{commit} with changes" if changed else commit


def git(folder: Path, *words: str) -> str:
    """Return what a git command in a folder prints."""
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"git {' '.join(words)} failed in {folder}: {done.stderr.strip()}")
    return done.stdout.strip()


def hash_files(folder: Path, *patterns: str) -> str:
    """Return a hash of the names and contents of files below a folder."""
    digest = hashlib.sha256()
    found = {path for pattern in patterns for path in folder.rglob(pattern)}
    for path in sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(data)} ".encode())
        digest.update(data)
    return digest.hexdigest()[:32]


def processor_name() -> str:
    """Return the processor's name."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        lines = facts.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def save_about(about: About, record: Path, seconds_s: Mapping[str, float]) -> None:
    """Write into a record how it was made, and the seconds that processors spent on each command."""
    record.mkdir(parents=True, exist_ok=True)
    times = dict(sorted(seconds_s.items(), key=lambda item: -item[1]))
    (record / TIMES).write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")
    (record / ABOUT).write_text(json.dumps(asdict(about), indent=1) + "\n", encoding="utf-8")


def read_about(record: Path) -> About | None:
    """Return how a record was made; None where there is no record, or one of another form of these scripts."""
    try:
        data = json.loads((record / ABOUT).read_text(encoding="utf-8"))
        return About(**{**data, "commands": tuple(data["commands"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def what_differs(kept: About, here: About) -> Iterator[str]:
    """Yield what makes two records incomparable: another machine, other packages, other scripts."""
    for name, words in (("python", "the interpreter"), ("processor", "the processor"), ("system", "the system"),
                        ("scripts", "the scenes, masks or readers in scripts/golden")):  # fmt: skip
        before, now = getattr(kept, name), getattr(here, name)
        if before != now:
            yield words if name == "scripts" else f"{words}: {before}, here {now}"
    names = sorted(set(kept.packages) | set(here.packages))
    for name in names:
        before, now = (one.packages.get(name, "not installed") for one in (kept, here))
        if before != now:
            yield f"the package {name}: {before}, here {now}"
