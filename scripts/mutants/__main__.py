"""Command line: ``python -m scripts.mutants choose | find | run``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .choose import choose
from .judge import Verdict
from .locate import ADVICE, find_all
from .records import ROOT, Mutant, MutantList, read_list, write_list
from .session import Asked, judge_list
from .source import read_package
from .suite import PACKAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.mutants", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    drawn = commands.add_parser("choose", help="draw a new list (the results of the old one are lost)")
    drawn.add_argument("--seed", type=int, default=1)
    drawn.add_argument("--number", type=int, default=100)
    commands.add_parser("find", help="say where each mutant is now; exit status 1 where one is not found")
    run = commands.add_parser("run", help="judge the mutants; exit status 1 where one that died lives now")
    run.add_argument("--only", nargs="+", metavar="ID", help="these mutants")
    run.add_argument("--all", action="store_true", help="those that survived as well")
    run.add_argument("--afresh", action="store_true", help="do not try the recorded tests first")
    run.add_argument("--write", action="store_true", help="write the results into the list")
    run.add_argument("--work", type=Path, help="folder of what a run learns, to go on from there")
    run.add_argument("--out", type=Path, help="JSON file of the verdicts")
    run.add_argument("--tests", nargs="+", default=[], help="ask these files or folders of tests only")
    run.add_argument("--workers", type=int, default=2, help="tests or mutants at a time (default: 2)")
    asked = parser.parse_args(arguments)
    if asked.command == "choose":
        return _choose(asked.seed, asked.number)
    return _find() if asked.command == "find" else _run(asked)


def _choose(seed: int, number: int) -> int:
    git = ["git", "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    write_list(MutantList(seed, commit, choose(read_package(PACKAGE), seed, number)))
    return 0


def _find() -> int:
    places, lost = find_all(read_list().mutants, read_package(PACKAGE))
    for place in places:
        print(f"{place.mutant.id}  {place.function.file}:{place.statement.lineno}  {place.function.name}")
    print("\n".join(lost + [ADVICE] * bool(lost)))
    return bool(lost)


def _run(asked: argparse.Namespace) -> int:
    listed = read_list()
    wanted = [one for one in listed.mutants if asked.all or asked.only or one.result != "survived"]
    wanted = [one for one in wanted if not asked.only or one.id in asked.only]
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        work = (asked.work or Path(temporary)).resolve()
        what = Asked(tuple(wanted), work, asked.workers, not asked.afresh, asked.write, tuple(asked.tests))
        verdicts, lost = judge_list(what)
    if asked.out is not None:
        asked.out.write_text(json.dumps([asdict(one) for one in verdicts.values()], indent=1) + "\n", encoding="utf-8")
    revived = _print_table(wanted, verdicts)
    print("\n".join(lost + [ADVICE] * bool(lost)))
    return bool(revived or lost)


def _print_table(wanted: Iterable[Mutant], verdicts: dict[str, Verdict]) -> list[str]:
    revived = []
    counts: Counter[tuple[str, str]] = Counter()
    print(f"\n{'id':5} {'room':11} {'kind':11} {'recorded':9} {'now':12} {'s':>5}  by")
    for one in wanted:
        now = verdicts.get(one.id, Verdict(one.id, "not found"))
        counts[one.room, now.result] += 1
        if one.result == "killed" and now.result != "killed":
            revived.append(one.id)
        mark = "  <- died then" if one.id in revived else ""
        print(f"{one.id:5} {one.room:11} {one.kind:11} {one.result:9} {now.result:12} {now.wall_s:5.0f}  "
              f"{now.killer or one.function}{mark}")  # fmt: skip
    for room in sorted({room for room, _ in counts}):
        of_room = {result: n for (name, result), n in sorted(counts.items()) if name == room}
        print(f"{room}: " + ", ".join(f"{n} {result}" for result, n in of_room.items()))
    if revived:
        print(f"{len(revived)} that died then are alive now: {' '.join(revived)}")
    return revived


if __name__ == "__main__":
    sys.exit(main())
