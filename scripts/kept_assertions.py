"""Show that no assertion of the tests changed since a commit, wherever its file went.

What is compared are all ``assert`` statements and all calls of ``pytest.raises`` and ``pytest.warns``, as Python reads
them: a moved file, a changed import and another line break change nothing.

    python scripts/kept_assertions.py HEAD~1
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def assertions_in(text: str) -> Counter[str]:
    """Return every assertion of a file and how often it stands there."""
    found: Counter[str] = Counter()
    for node in ast.walk(ast.parse(text)):
        is_check = isinstance(node, ast.Call) and ast.unparse(node.func) in {"pytest.raises", "pytest.warns"}
        if isinstance(node, ast.Assert) or is_check:
            found[ast.unparse(node)] += 1
    return found


def assertions_at(commit: str) -> Counter[str]:
    """Return the assertions of all tests of a commit."""
    names = _git("ls-tree", "-r", "--name-only", commit, "tests").splitlines()
    return sum((assertions_in(_git("show", f"{commit}:{name}")) for name in names if name.endswith(".py")), Counter())


def assertions_here() -> Counter[str]:
    """Return the assertions of all tests of this working tree."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    return sum((assertions_in(path.read_text(encoding="utf-8")) for path in files), Counter())


def changes(before: Counter[str], after: Counter[str]) -> list[str]:
    """Return a line for every assertion that went (-) or came (+)."""
    gone = [f"- {text}" for text in sorted((before - after).elements())]
    return gone + [f"+ {text}" for text in sorted((after - before).elements())]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return done.stdout


def main() -> int:
    """Compare and print; 1 where an assertion differs."""
    parser = argparse.ArgumentParser(description="Compare the assertions of all tests with those of a commit.")
    parser.add_argument("commit")
    before, after = assertions_at(parser.parse_args().commit), assertions_here()
    lines = changes(before, after)
    print("\n".join(lines) if lines else f"all {before.total()} assertions are as they were")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
