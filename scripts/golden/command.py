"""The command line: record, compare, check."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from .about import ROOT, about_this, git, read_about, save_about, what_differs
from .allowances import judge, read_allowances
from .differences import compare_records, files_of, split_name
from .masks import Masks
from .play import Stage, play_all
from .scenes import SCENES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .allowances import Judged

KEPT = ROOT / ".golden" / "record"
NOW = ROOT / ".golden" / "now"
SAME, DIFFERENT, USELESS = 0, 1, 2
"""Exit codes: nothing differs; something does; there is no record that could be compared."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    asked = parser().parse_args(arguments)
    only = tuple(asked.only or ())
    if asked.command == "record":
        return make_record(asked.out, asked.at, only, asked.jobs)
    if asked.command == "compare":
        for record in (asked.old, asked.new):
            if read_about(record) is None:
                return useless(f"{record} holds no record of this form of scripts/golden")
        return tell(judged_between(asked.old, asked.new, only), asked.most, whole=not only)
    return check(asked.against, only, asked.jobs, asked.most)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    words = argparse.ArgumentParser(prog="golden", description="What histotune does today, kept and compared.")
    commands = words.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="play every command and keep what it printed and wrote")
    record.add_argument("--out", type=Path, default=KEPT, help=f"folder of the record (default: {relative(KEPT)})")
    record.add_argument("--at", metavar="COMMIT", help="the histotune of this commit, not of the working tree")
    compare = commands.add_parser("compare", help="tell every difference between two records; exit code 1 if any")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    check_ = commands.add_parser("check", help="record the working tree and compare it with the kept record")
    check_.add_argument("--against", metavar="COMMIT|DIR", help=f"another record than {relative(KEPT)}, or a commit")
    for one in (record, compare, check_):
        one.add_argument("--only", metavar="GLOB", action="append", help="only these scenes, or SCENE/STEP; repeatable")
    for one in (record, check_):
        one.add_argument("--jobs", type=int, default=2, help="scenes at once (default: 2)")
    for one in (compare, check_):
        one.add_argument("--most", type=int, default=20, help="differences told per file (default: 20; 0: all)")
    return words


def make_record(out: Path, at: str | None, only: tuple[str, ...], jobs: int) -> int:
    """Record the working tree or a commit into a folder, which appears when it is finished."""
    began = time.perf_counter()
    if out.exists() and read_about(out) is None and any(out.iterdir()):
        return useless(f"{out} holds something else than a record; choose another --out")
    with source_of(at) as source, work_folder() as work:
        require_own(source)
        about = about_this(source, only)
        record = work / "record"
        stage = Stage(source, work, record, Masks(places(source)), only)
        report = play_all(SCENES, stage, jobs)
        save_about(about, record, report.seconds_s)
        if out.exists():
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(record, out)
    print(f"{report.n_commands} commands in {time.perf_counter() - began:.0f} s; seconds of a processor: "
          f"{sum(report.seconds_s.values()):.0f}, of which {report.longest(6)}")  # fmt: skip
    for line in report.surprises:
        print(f"UNEXPECTED: {line}")
    print(f"record: {relative(out)} ({about.words})")
    return DIFFERENT if report.surprises else SAME


def check(against: str | None, only: tuple[str, ...], jobs: int, most: int) -> int:
    """Record the working tree and compare it with a kept record, or with one of a commit that is made for it."""
    kept = KEPT if against is None else Path(against)
    if against is not None and not kept.is_dir():
        commit = git(ROOT, "rev-parse", "--verify", f"{against}^{{commit}}")
        kept = ROOT / ".golden" / f"at-{commit[:12]}"
        if not is_comparable(kept):
            print(f"recording commit {commit[:12]} first")
            make_record(kept, commit, (), jobs)
    about = read_about(kept)
    if about is None:
        return useless(f"there is no record in {relative(kept)}; make one: python scripts/golden record")
    print(f"kept record: {relative(kept)} ({about.words})")
    if reasons := list(what_differs(about, about_this(ROOT / "src"))):
        again = f"python scripts/golden record --at {about.commit[:12]} --out {relative(kept)}"
        return useless("it can't be compared, since these differ:", *(f"  {one}" for one in reasons),
                       f"make it again: {again}")  # fmt: skip
    make_record(NOW, None, only, jobs)
    return tell(judged_between(kept, NOW, only), most, whole=not only and not about.commands)


def is_comparable(record: Path) -> bool:
    """Return whether there is a record that was made as one would be made here and now."""
    about = read_about(record)
    return about is not None and not about.commands and not list(what_differs(about, about_this(ROOT / "src")))


def judged_between(old: Path, new: Path, only: tuple[str, ...]) -> Judged:
    """Return the differences between two records, parted by what is meant."""
    kept = [set(about.commands) for record in (old, new) if (about := read_about(record)) is not None]
    filters = [tuple(one) for one in (set(only), *kept) if one]
    wanted = None
    if filters:
        names = {split_name(file)[0] for file in files_of(old) | files_of(new)}
        wanted = [name for name in names if all(_fits(name, globs) for globs in filters)]
    return judge(compare_records(old, new, wanted), read_allowances())


def _fits(command: str, globs: Sequence[str]) -> bool:
    scene = command.partition("/")[0]
    return any(fnmatchcase(name, glob) for glob in globs for name in (scene, command))


def tell(judged: Judged, most: int, *, whole: bool) -> int:
    """Print the differences, what was allowed and what was allowed in vain; return the exit code."""
    told: Counter[tuple[str, str]] = Counter()
    for one in judged.found:
        place = (one.command, one.file)
        told[place] += 1
        if not most or told[place] <= most:
            print(one)
    for (command, file), n in told.items():
        if most and n > most:
            print(f"{command} / {file}: {n - most} more (--most 0 tells all)")
    idle = judged.unused if whole else ()
    for allowance in idle:
        print(f"UNUSED ALLOWANCE: {allowance}")
    n = len(judged.found)
    allowed = f", {judged.n_allowed} allowed" if judged.n_allowed else ""
    n_commands = len({command for command, _ in told})
    print(f"{n} difference{'' if n == 1 else 's'} in {len(told)} files of {n_commands} commands{allowed}")
    return DIFFERENT if n or idle else SAME


@contextlib.contextmanager
def source_of(commit: str | None) -> Iterator[Path]:
    """Yield the ``src`` of the working tree, or that of a commit in a git worktree of its own."""
    if commit is None:
        yield ROOT / "src"
        return
    folder = Path(tempfile.mkdtemp(prefix="histotune-commit-"))
    git(ROOT, "worktree", "add", "--detach", str(folder / "tree"), commit)
    try:
        yield folder / "tree" / "src"
    finally:
        git(ROOT, "worktree", "remove", "--force", str(folder / "tree"))
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """Yield an empty folder for playing: the first that no other record uses, so that its name has one length."""
    parent = Path(tempfile.gettempdir())
    for number in range(10):
        folder = parent / f"histotune-golden-{number}"
        guard = os.open(parent / f".histotune-golden-{number}.lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(guard)
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(guard)
        return
    sys.exit("ten records are being made already")


def require_own(source: Path) -> None:
    """Stop where another histotune than that of ``source`` would be played."""
    code = "import histotune; print(histotune.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    if done.returncode != 0 or not Path(done.stdout.strip()).is_relative_to(source):
        sys.exit(f"histotune of {source} can't be played: {done.stdout}{done.stderr}")


def places(source: Path) -> dict[str, str]:
    """Return the folders whose names differ between trees and environments, with the words that replace them."""
    return {str(source): "source", sys.prefix: "python"}


def relative(path: Path) -> str:
    """Return a path as it is typed in the root of the tree."""
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def useless(*lines: str) -> int:
    """Say why nothing can be compared."""
    print("\n".join(lines), file=sys.stderr)
    return USELESS
