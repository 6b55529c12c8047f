"""A run over the list: the recorded tests first, the whole suite for what they miss; kept as it goes."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from .judge import Reach, Verdict, judge_all, killer_now, read_reach, record_reach, sound_killers
from .records import LIST, ROOT, Mutant, read_list, write_list
from .suite import Copy, project_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Asked:
    """What to judge and how.

    Attributes:
        mutants: The mutants to judge.
        work: Folder of what a run learns; a later run over the same code and tests goes on from there.
        workers: Tests or mutants at a time.
        known_killers: Try the recorded tests first, and ask the whole suite only about what they miss.
        write: Write each verdict into the committed list.
        tests: Files or folders of tests to ask; empty asks the whole suite.
    """

    mutants: tuple[Mutant, ...]
    work: Path
    workers: int = 2
    known_killers: bool = True
    write: bool = False
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Session:
    """A run over the list.

    Attributes:
        asked: What to judge and how.
        copy: The project with its mutants.
        key: Hash over the mutants, the package and the tests; what was learnt under another key is not used.
    """

    asked: Asked
    copy: Copy
    key: str

    def verdicts(self) -> dict[str, Verdict]:
        """Return the verdicts that are known, by mutant."""
        path = self.asked.work / f"verdicts-{self.key}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {one.id: one for one in (Verdict(**json.loads(line)) for line in lines)}

    def keep(self, verdict: Verdict) -> None:
        """Note a verdict, and say it."""
        with (self.asked.work / f"verdicts-{self.key}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(verdict)) + "\n")
        print(f"{verdict.id}  {verdict.result}  {verdict.killer or verdict.how}  {verdict.wall_s:.0f} s", flush=True)
        if self.asked.write and verdict.result != "unclear":
            write_verdict(verdict)

    def ask_known_killers(self, mutants: Sequence[Mutant]) -> None:
        """Judge mutants by the one test that is recorded to kill each, where it passes without any mutant."""
        killers = {one.id: killer_now(one.killer) for one in mutants if one.killer}
        sound = sound_killers(self.copy, {mutant: test for mutant, test in killers.items() if test})
        known = [(one, {killers[one.id]: sound[killers[one.id]]}) for one in mutants if killers.get(one.id) in sound]
        for verdict in judge_all(self.copy, known, self.asked.workers):
            if verdict.result == "killed":
                self.keep(verdict)

    def ask_suite(self, mutants: Iterable[Mutant]) -> None:
        """Judge mutants by all tests that reach them."""
        reach = self.reach()
        for verdict in judge_all(self.copy, [(one, reach.tests_of(one)) for one in mutants], self.asked.workers):
            self.keep(verdict)

    def reach(self) -> Reach:
        """Return which test reaches which mutant, from one pass of the suite."""
        kept = self.asked.work / f"reach-{self.key}.json"
        if not kept.exists():
            print("running the whole suite once, to see which test reaches which mutant", flush=True)
            start = time.monotonic()
            record_reach(self.copy, self.asked.workers, kept, self.asked.tests)
            print(f"{time.monotonic() - start:.0f} s", flush=True)
        reach = read_reach(kept)
        if reach.failed:
            print("these tests fail without any mutant and are left out:", *reach.failed, sep="\n  ", flush=True)
        return reach


def judge_list(asked: Asked) -> tuple[dict[str, Verdict], list[str]]:
    """Judge mutants of the committed list.

    Args:
        asked: Which, and how.

    Returns:
        The verdicts by mutant, and a message for each mutant of the list that was not found in the package.
    """
    asked.work.mkdir(parents=True, exist_ok=True)
    copy, lost = Copy.make(asked.work, read_list().mutants)
    session = Session(asked, copy, _key(asked.tests))
    lost_ids = {message.split(":")[0] for message in lost}
    mutants = [one for one in asked.mutants if one.id not in lost_ids]
    if asked.known_killers:
        session.ask_known_killers([one for one in mutants if one.id not in session.verdicts()])
    left = [one for one in mutants if one.id not in session.verdicts()]
    if left:
        session.ask_suite(left)
    return session.verdicts(), lost


def write_verdict(verdict: Verdict) -> None:
    """Write a verdict into the committed list; a reason that stands there is kept while the mutant survives."""
    listed = read_list()

    def told(one: Mutant) -> Mutant:
        if one.id != verdict.id:
            return one
        if verdict.result == "killed":
            return replace(one, result="killed", killer=verdict.killer, how=verdict.how, reason="")
        return replace(one, result="survived", killer="", how="")

    write_list(replace(listed, mutants=tuple(map(told, listed.mutants))), LIST)


def _key(tests: Sequence[str]) -> str:
    digest = hashlib.sha256(repr(tuple(tests)).encode())
    for mutant in read_list().mutants:
        digest.update(repr((mutant.id, mutant.now().before, mutant.now().after)).encode())
    for name in project_files():
        if name.startswith(("src/", "tests/")):
            digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()[:12]
