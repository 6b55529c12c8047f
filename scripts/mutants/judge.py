"""Which tests reach a mutant, and whether one of them fails when it acts."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .records import ROOT, Mutant
from .suite import Copy, OneTest, SuiteRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

PHASE = re.compile(r" \((setup|call|teardown)\)$")
UNKNOWN_TIME_S = 10.0
FIRST_FILES = 6


@dataclass(frozen=True)
class Verdict:
    """What the tests made of a mutant.

    Attributes:
        id: The mutant.
        result: "killed", "survived", "not reached" where no test comes by, or "unclear" where its tests didn't run.
        killer: The first test that failed.
        how: "failed", "timeout" or "crashed"; of an unclear one, what happened.
        n_tests: Tests that were run.
        wall_s: Seconds that took.
    """

    id: str
    result: str
    killer: str = ""
    how: str = ""
    n_tests: int = 0
    wall_s: float = 0.0


@dataclass(frozen=True)
class Reach:
    """One pass of the whole suite without any mutant acting.

    Attributes:
        tests: Every test that passed, by name.
        by_mutant: Tests that reach a mutant, by its id; a file's name where its import does, which stands for all its
            tests.
        failed: Tests that fail without any mutant.
    """

    tests: Mapping[str, OneTest]
    by_mutant: Mapping[str, frozenset[str]]
    failed: tuple[str, ...]

    def tests_of(self, mutant: Mutant) -> dict[str, float]:
        """Return the tests that can notice a mutant, in the order to run them, with their seconds.

        These are the tests that reach it, and those that share a fixture (of a module or session) with one that does:
        a fixture's code runs in the first test that asks for it, and its result is seen by all. Tests of a file stay
        together; files near the mutant come first, then those that take least; in a file, the quickest first.
        """
        found = self.by_mutant.get(mutant.id, frozenset())
        reaching = [one for one in self.tests.values() if one.test in found or one.test.split("::")[0] in found]
        shared = {name for one in reaching for name in one.shares}
        chosen = [*reaching, *(one for one in self.tests.values() if shared & set(one.shares))]
        by_file: dict[str, dict[str, float]] = defaultdict(dict)
        for one in chosen:
            by_file[one.test.split("::")[0]][one.test] = one.time_s
        files = sorted(by_file, key=lambda file: (_distance(file, mutant.file), sum(by_file[file].values()), file))
        return {test: time_s for file in files for test, time_s in sorted(by_file[file].items(), key=itemgetter(1))}


def record_reach(copy: Copy, workers: int, kept: Path, tests: Sequence[str] = ()) -> None:
    """Run the suite once and note which test reaches which mutant.

    Args:
        copy: The project with its mutants.
        workers: Processes that share the tests; more than one needs pytest-xdist.
        kept: File for the notes.
        tests: Files or folders of tests; empty runs the whole suite.
    """
    reach, report = copy.folder / "reach.tsv", copy.folder / "suite.jsonl"
    reach.unlink(missing_ok=True)
    settings = {"HISTOTUNE_MUTANT_REACH": str(reach), "HISTOTUNE_MUTANT_REPORT": str(report)}
    run = copy.run([*(["-n", str(workers), "--dist", "loadfile"] if workers > 1 else []), *tests], settings)
    if run.open_test or not run.tests:
        raise RuntimeError(f"the suite ended early, in {run.open_test or 'no test'}; see {report.with_suffix('.log')}")
    kept.write_text(json.dumps(_notes(run, _text(reach))), encoding="utf-8")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""


def _notes(run: SuiteRun, lines: str) -> dict[str, object]:
    by_mutant: dict[str, set[str]] = defaultdict(set)
    for line in lines.splitlines():
        mutant, _, test = line.partition("\t")
        by_mutant[mutant].add(PHASE.sub("", test))
    passed = [one for one in run.tests if one.outcome == "passed"]
    return {
        "wall_s": run.wall_s,
        "tests": [asdict(one) for one in passed],
        "by_mutant": {mutant: sorted(tests) for mutant, tests in sorted(by_mutant.items())},
        "failed": list(run.failed),
    }


def read_reach(path: Path) -> Reach:
    """Read the notes of a pass."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    tests = (OneTest(**{**one, "shares": tuple(one["shares"])}) for one in kept["tests"])
    by_mutant = {mutant: frozenset(names) for mutant, names in kept["by_mutant"].items()}
    return Reach({one.test: one for one in tests}, by_mutant, tuple(kept["failed"]))


def judge(copy: Copy, mutant: Mutant, tests: Mapping[str, float]) -> Verdict:
    """Run tests with a mutant acting until one fails.

    Args:
        copy: The project with its mutants.
        mutant: Which one acts.
        tests: The tests in their order, and the seconds each took before.

    Returns:
        The verdict.
    """
    n_tests, wall_s = 0, 0.0
    for part in _parts(tests):
        run = copy.run_listed(mutant.id, part, {"HISTOTUNE_MUTANT": mutant.id})
        n_tests, wall_s = n_tests + len(run.tests), round(wall_s + run.wall_s, 1)
        if run.failed:
            return Verdict(mutant.id, "killed", run.failed[0], "failed", n_tests, wall_s)
        if run.open_test:
            how = "timeout" if run.is_late else "crashed"
            return Verdict(mutant.id, "killed", run.open_test, how, n_tests, wall_s)
        if len(run.tests) < len(part):
            found = f"only {len(run.tests)} of {len(part)} tests were found"
            return Verdict(mutant.id, "unclear", "", found, n_tests, wall_s)
    return Verdict(mutant.id, "survived" if n_tests else "not reached", n_tests=n_tests, wall_s=wall_s)


def _parts(tests: Mapping[str, float]) -> Iterator[dict[str, float]]:
    """Yield the tests of the first files, then the others: pytest imports all files of a run before its first test."""
    first = set(list(dict.fromkeys(test.split("::")[0] for test in tests))[:FIRST_FILES])
    for is_first in (True, False):
        part = {test: time_s for test, time_s in tests.items() if (test.split("::")[0] in first) == is_first}
        if part:
            yield part


def judge_all(
    copy: Copy,
    wanted: Iterable[tuple[Mutant, Mapping[str, float]]],
    workers: int,
) -> Iterator[Verdict]:
    """Judge mutants side by side, those with the least to run first.

    Args:
        copy: The project with its mutants.
        wanted: Mutants and their tests.
        workers: How many at a time.

    Yields:
        The verdicts, as they come.
    """
    ordered = sorted(wanted, key=lambda pair: sum(pair[1].values()))
    with ThreadPoolExecutor(workers) as pool:
        for done in as_completed([pool.submit(judge, copy, mutant, tests) for mutant, tests in ordered]):
            yield done.result()


def sound_killers(copy: Copy, killers: Mapping[str, str]) -> dict[str, float]:
    """Return those of some tests that pass where no mutant acts, with the seconds they take.

    Args:
        copy: The project with its mutants.
        killers: Names of tests, by mutant.
    """
    tests = dict.fromkeys(sorted(set(killers.values())), UNKNOWN_TIME_S)
    passed: dict[str, float] = {}
    for round_number in range(len(tests)):
        if not tests:
            break
        run = copy.run_listed(f"killers-{round_number}", tests, {})
        passed |= {one.test: one.time_s for one in run.tests if one.outcome == "passed"}
        unsound = {*run.failed, run.open_test}
        if not unsound - {""}:
            break
        tests = {test: time_s for test, time_s in tests.items() if test not in passed and test not in unsound}
    return passed


def killer_now(killer: str, tests: Path = ROOT / "tests") -> str:
    """Return the name that a recorded test has now, its file having moved; empty where that cannot be told."""
    file, _, rest = killer.partition("::")
    function = rest.split("[")[0].split("::")[-1]
    pattern = re.compile(rf"^\s*(async )?def {re.escape(function)}\(", re.MULTILINE)
    if not function:
        return ""
    if (tests.parent / file).is_file() and pattern.search((tests.parent / file).read_text(encoding="utf-8")):
        return killer
    holders = [path for path in sorted(tests.rglob("*.py")) if pattern.search(path.read_text(encoding="utf-8"))]
    same_name = [path for path in holders if path.name == PurePosixPath(file).name]
    for found in (same_name, holders):
        if len(found) == 1:
            return f"{found[0].relative_to(tests.parent).as_posix()}::{rest}"
    return ""


def _distance(test_file: str, file: str) -> int:
    test, module = PurePosixPath(test_file), PurePosixPath(file)
    if test.name == f"test_{module.name}" and test.parts[1:-1] == module.parts[:-1]:
        return 0
    return 1 if test.parts[1:-1] == module.parts[:-1] else 2
