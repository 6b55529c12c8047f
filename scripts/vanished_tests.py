"""Name the tests of an earlier commit that are there no more, and hold each against its written reason.

A test is known by its name and parameters, not by its file, so that moving a file makes nothing vanish. Reasons stand
in ``tests/vanished.toml``; a test without one, and a reason that explains nothing, end in exit code 1.

    python scripts/vanished_tests.py 96cd800
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REASONS = ROOT / "tests" / "vanished.toml"


@dataclass(frozen=True)
class Reason:
    """Why tests are there no more.

    Attributes:
        tests: Names with parameters; ``*`` stands for anything.
        why: The reason, and what holds instead.
    """

    tests: str
    why: str


@dataclass(frozen=True)
class Verdict:
    """What became of the earlier tests.

    Attributes:
        explained: Name and reason of each that vanished with one.
        unexplained: Names of those that vanished without.
        idle: Reasons that explain nothing.
    """

    explained: tuple[tuple[str, str], ...]
    unexplained: tuple[str, ...]
    idle: tuple[str, ...]


def name_of(test_id: str) -> str:
    """Return what a test is called without its file: ``a/b.py::Class::test[x]`` is ``Class::test[x]``."""
    return test_id.partition("::")[2]


def judge(before: list[str], after: list[str], reasons: list[Reason]) -> Verdict:
    """Compare two lists of test ids.

    Args:
        before: Ids at the earlier commit.
        after: Ids now.
        reasons: What may vanish.

    Returns:
        Each name that stood in more files before than now, with its reason where one fits.
    """
    gone = sorted((Counter(map(name_of, before)) - Counter(map(name_of, after))).elements())
    found = {name: next((one for one in reasons if _fits(name, one)), None) for name in gone}
    used = {one.tests for one in found.values() if one is not None}
    return Verdict(
        tuple((name, one.why) for name, one in found.items() if one is not None),
        tuple(name for name, one in found.items() if one is None),
        tuple(one.tests for one in reasons if one.tests not in used),
    )


def _fits(name: str, reason: Reason) -> bool:
    return fnmatchcase(name.replace("[", "<").replace("]", ">"), reason.tests.replace("[", "<").replace("]", ">"))


def collect(tree: Path) -> list[str]:
    """Return the ids of all tests of a tree, slow ones among them; its own package is imported."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", "-p", "no:cacheprovider"]
    paths = f"{tree / 'src'}:{tree}"
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False,
                          env={"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "PYTHONPATH": paths})  # fmt: skip
    ids = [line for line in done.stdout.splitlines() if "::" in line and not line.startswith(("ERROR", "  "))]
    if done.returncode != 0 or not ids:
        sys.exit(f"the tests of {tree} can't be collected:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return ids


def collect_at(commit: str) -> list[str]:
    """Return the ids of all tests of a commit, checked out beside this tree for as long as it takes."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", "-q", str(tree), commit], cwd=ROOT, check=True)  # noqa: S607
        try:
            return collect(tree)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)  # noqa: S607


def read_reasons(path: Path) -> list[Reason]:
    """Return the reasons of a file with tables ``[[vanished]]`` of ``tests`` and ``why``."""
    return [Reason(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("vanished", [])]


def main() -> int:
    """Compare with the commit that was named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the earlier commit")
    before, after = collect_at(parser.parse_args().commit), collect(ROOT)
    verdict = judge(before, after, read_reasons(REASONS))
    for name, why in verdict.explained:
        print(f"vanished: {name}: {why}")
    for name in verdict.unexplained:
        print(f"VANISHED WITHOUT A REASON: {name}")
    for tests in verdict.idle:
        print(f"a reason that explains nothing: {tests}")
    print(f"{len(before):,} tests before, {len(after):,} now, {len(verdict.explained):,} vanished with a reason, "
          f"{len(verdict.unexplained):,} without")  # fmt: skip
    return 1 if verdict.unexplained or verdict.idle else 0


if __name__ == "__main__":
    sys.exit(main())
