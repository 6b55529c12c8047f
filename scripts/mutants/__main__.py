"""Command line: ``python -m scripts.mutants choose | find | run``."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .choose import choose
from .judge import Reach, Verdict, judge_all, killer_now, read_reach, record_reach, sound_killers
from .locate import ADVICE, find_all
from .records import LIST, ROOT, Mutant, MutantList, read_list, write_list
from .source import read_package
from .suite import PACKAGE, Copy, project_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Asked:
    """What to judge and how.

    Attributes:
        mutants: The mutants to judge.
        work: Folder of what a run learns; a later run over the same code goes on from there.
        workers: Tests or mutants at a time.
        known_killers: Try the recorded tests first, and ask the whole suite only about what they miss.
        tests: Files or folders of tests to ask; empty asks the whole suite.
    """

    mutants: tuple[Mutant, ...]
    work: Path
    workers: int
    known_killers: bool
    tests: tuple[str, ...] = ()


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
        verdicts, lost = _judge(
            Asked(tuple(wanted), work, asked.workers, not asked.afresh, tuple(asked.tests)), asked.write
        )
    if asked.out is not None:
        asked.out.write_text(json.dumps([asdict(one) for one in verdicts.values()], indent=1) + "\n", encoding="utf-8")
    revived = _print_table(wanted, verdicts)
    print("\n".join(lost + [ADVICE] * bool(lost)))
    return bool(revived or lost)


def _judge(asked: Asked, write: bool) -> tuple[dict[str, Verdict], list[str]]:
    asked.work.mkdir(parents=True, exist_ok=True)
    copy, lost = Copy.make(asked.work, read_list().mutants)
    log = asked.work / f"verdicts-{_digest(asked.tests)}.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    verdicts = {one.id: one for one in (Verdict(**json.loads(line)) for line in lines)}

    def keep(verdict: Verdict) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(verdict)) + "\n")
        print(f"{verdict.id}  {verdict.result}  {verdict.killer}  {verdict.wall_s:.0f} s", flush=True)
        if write:
            _write(verdict)

    lost_ids = {message.split(":")[0] for message in lost}
    open_ones = [one for one in asked.mutants if one.id not in verdicts and one.id not in lost_ids]
    if asked.known_killers:
        killers = {one.id: killer_now(one.killer) for one in open_ones if one.killer}
        sound = sound_killers(copy, {mutant: test for mutant, test in killers.items() if test})
        known = [(one, {killers[one.id]: sound[killers[one.id]]}) for one in open_ones if killers.get(one.id) in sound]
        found = judge_all(copy, known, asked.workers, lambda one: keep(one) if one.result == "killed" else None)
        verdicts |= {one.id: one for one in found if one.result == "killed"}
    open_ones = [one for one in open_ones if one.id not in verdicts]
    if open_ones:
        reach = _reach(copy, asked)
        pairs = [(one, reach.tests_of(one)) for one in open_ones]
        verdicts |= {one.id: one for one in judge_all(copy, pairs, asked.workers, keep)}
    return verdicts, lost


def _reach(copy: Copy, asked: Asked) -> Reach:
    kept = asked.work / f"reach-{_digest(asked.tests)}.json"
    if not kept.exists():
        print("running the whole suite once, to see which test reaches which mutant", flush=True)
        start = time.monotonic()
        record_reach(copy, asked.workers, asked.work, asked.tests)
        (asked.work / "reach.json").rename(kept)
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    reach = read_reach(kept)
    if reach.failed:
        print("these tests fail without any mutant and are left out:", *reach.failed, sep="\n  ", flush=True)
    return reach


def _digest(tests: Sequence[str]) -> str:
    """Return a hash over the mutants, the package and the tests, and which tests are asked."""
    digest = hashlib.sha256(repr(tests).encode())
    for mutant in read_list().mutants:
        digest.update(repr((mutant.id, mutant.now().before, mutant.now().after)).encode())
    for name in project_files():
        if name.startswith(("src/", "tests/")):
            digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()[:12]


def _write(verdict: Verdict) -> None:
    listed = read_list()
    result = "killed" if verdict.result == "killed" else "survived"
    mutants = tuple(
        replace(one, result=result, killer=verdict.killer, how=verdict.how, reason="" if verdict.killer else one.reason)
        if one.id == verdict.id
        else one
        for one in listed.mutants
    )
    write_list(replace(listed, mutants=mutants), LIST)


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
