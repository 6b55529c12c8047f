"""The tests, run on a copy of the project whose package carries the mutants."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .locate import find_all
from .records import ROOT
from .schemata import instrument
from .source import read_package

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .locate import Place
    from .records import Mutant

PACKAGE = ROOT / "src" / "histotune"
SLOWER = 20.0
"""How many times longer than before a test may take until it counts as stuck; other programs may run as well."""
LEAST_LIMIT_S = 60.0
BETWEEN_TESTS_S = 900.0
"""Time for what is no test: pytest's start, the import of all test modules, and its end."""
TICK_S = 1.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class OneTest:
    """What became of one test."""

    test: str
    outcome: str
    time_s: float
    shares: tuple[str, ...]


@dataclass(frozen=True)
class SuiteRun:
    """What became of a run of tests.

    Attributes:
        tests: The tests that ended.
        open_test: The test that was running when the process ended; empty where it came to its end.
        is_late: Whether that test had used up its time.
        wall_s: Seconds that the run took.
    """

    tests: tuple[OneTest, ...]
    open_test: str
    is_late: bool
    wall_s: float

    @property
    def failed(self) -> tuple[str, ...]:
        """Tests that failed."""
        return tuple(one.test for one in self.tests if one.outcome == "failed")


@dataclass(frozen=True)
class Copy:
    """A copy of the project.

    Attributes:
        folder: Holds ``project`` (as it is), ``src`` (the package with the mutants) and what the tests leave behind.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path, mutants: Sequence[Mutant]) -> tuple[Copy, list[str]]:
        """Copy the project and plant the mutants.

        Args:
            folder: Where to; what is there is replaced.
            mutants: What to plant.

        Returns:
            The copy, and a message for every mutant that was not found.
        """
        for name in ("project", "src", "home", "tmp"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("home", "tmp"):
            (folder / name).mkdir(parents=True)
        for name in project_files():
            (folder / "project" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "project" / name)
        shutil.copytree(folder / "project" / "src", folder / "src")
        modules = read_package(PACKAGE)
        places, lost = find_all(mutants, modules)
        by_file: dict[str, list[Place]] = defaultdict(list)
        for place in places:
            by_file[place.function.file].append(place)
        for file, inside in by_file.items():
            source = instrument(modules[file], inside)
            (folder / "src" / "histotune" / file).write_text(source, encoding="utf-8")
        return cls(folder), lost

    def run(
        self, arguments: Sequence[str], settings: Mapping[str, str], limits_s: Mapping[str, float] | None = None
    ) -> SuiteRun:
        """Run pytest in the copy.

        Args:
            arguments: What pytest is told.
            settings: Environment variables; ``HISTOTUNE_MUTANT_REPORT`` is required.
            limits_s: Seconds that each test may take; a test that takes longer ends the run. None sets no limit.

        Returns:
            What became of it.
        """
        report = Path(settings["HISTOTUNE_MUTANT_REPORT"])
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "scripts.mutants.plugin",
                   "-p", "no:cacheprovider", "--hypothesis-seed=0", *arguments]  # fmt: skip
        start = time.monotonic()
        with report.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(command, cwd=self.folder / "project", env=self._environment(settings),
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                       start_new_session=True)  # fmt: skip
            try:
                is_late = _wait(process, report, limits_s)
            finally:
                _end_all(process)
        return _read_report(report, is_late, time.monotonic() - start)

    def run_listed(self, name: str, tests: Mapping[str, float], settings: Mapping[str, str]) -> SuiteRun:
        """Run tests in a given order up to the first failure.

        Args:
            name: Name for the files of this run.
            tests: Tests, and the seconds each took before.
            settings: Environment variables.

        Returns:
            What became of it; a test that hangs ends it.
        """
        limits = {test: max(LEAST_LIMIT_S, SLOWER * time_s) for test, time_s in tests.items()}
        listed, report = self.folder / "runs" / f"{name}.json", self.folder / "runs" / f"{name}.jsonl"
        listed.parent.mkdir(exist_ok=True)
        listed.write_text(json.dumps(list(tests)), encoding="utf-8")
        files = list(dict.fromkeys(test.split("::")[0] for test in tests))
        examples = {"HYPOTHESIS_STORAGE_DIRECTORY": str(self.folder / "tmp" / f"examples-{name}")}
        told = {"HISTOTUNE_MUTANT_TESTS": str(listed), "HISTOTUNE_MUTANT_REPORT": str(report), **examples}
        return self.run(["-x", *files], {**settings, **told}, limits)

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        real = os.environ.get("HISTOTUNE_REAL_DATA", str(ROOT.parent / "shared" / "data"))
        temporary = str(self.folder / "tmp")
        return {
            **os.environ, **ONE_THREAD, "HISTOTUNE_REAL_DATA": real, "HOME": str(self.folder / "home"),
            "TMPDIR": temporary, "PYTEST_DEBUG_TEMPROOT": temporary,
            "PYTHONPATH": os.pathsep.join([str(self.folder / "src"), str(self.folder / "project")]), **settings,
        }  # fmt: skip


def project_files() -> list[str]:
    """Return the project's files, those that git ignores left out."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    answer = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in answer.stdout.split("\0") if name and (ROOT / name).is_file()]


def _wait(process: subprocess.Popen[bytes], report: Path, limits_s: Mapping[str, float] | None) -> bool:
    """Wait for the end of a run, and return whether a test has used up its time.

    Time is counted in ticks of this process rather than by the clock, so that it stands still while this process and
    the tests are stopped together.
    """
    test, taken_s = "", 0.0
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(TICK_S)
            return False
        before, test = test, _open_test(_lines(report))
        taken_s = taken_s + TICK_S if test == before else 0.0
        if limits_s is not None and taken_s > limits_s.get(test, BETWEEN_TESTS_S):
            return True


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """End a run and every process that its tests have left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _lines(report: Path) -> list[dict[str, Any]]:
    text = report.read_text(encoding="utf-8") if report.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _open_test(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the test that has started and not ended; empty between tests."""
    return str(lines[-1].get("start", "")) if lines else ""


def _read_report(report: Path, is_late: bool, wall_s: float) -> SuiteRun:
    lines = _lines(report)
    tests = tuple(OneTest(**{**line, "shares": tuple(line["shares"])}) for line in lines if "test" in line)
    has_ended = any("finish" in line for line in lines)
    if not lines or not (has_ended or _open_test(lines) or is_late):
        raise RuntimeError(f"pytest ended before its first test; see {report.with_suffix('.log')}")
    return SuiteRun(tests, "" if has_ended else _open_test(lines) or "between two tests", is_late, wall_s)
