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
from typing import TYPE_CHECKING

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

    def run(self, arguments: Sequence[str], settings: Mapping[str, str], limit_s: float | None = None) -> SuiteRun:
        """Run pytest in the copy.

        Args:
            arguments: What pytest is told.
            settings: Environment variables; ``HISTOTUNE_MUTANT_REPORT`` is required.
            limit_s: Seconds after which the run is ended.

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
                with suppress(subprocess.TimeoutExpired):
                    process.wait(limit_s)
            finally:
                _end_all(process)
        return _read_report(report, process.returncode, time.monotonic() - start)

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
        listed.write_text(json.dumps(list(limits.items())), encoding="utf-8")
        late = Path(f"{listed}.late")
        late.unlink(missing_ok=True)
        files = list(dict.fromkeys(test.split("::")[0] for test in tests))
        examples = {"HYPOTHESIS_STORAGE_DIRECTORY": str(self.folder / "tmp" / f"examples-{name}")}
        told = {"HISTOTUNE_MUTANT_TESTS": str(listed), "HISTOTUNE_MUTANT_REPORT": str(report), **examples}
        return self.run(["-x", *files], {**settings, **told}, 600 + SLOWER * sum(tests.values()))

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


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """End a run and every process that its tests have left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read_report(report: Path, code: int, wall_s: float) -> SuiteRun:
    lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()] if report.exists() else []
    tests = tuple(OneTest(**{**line, "shares": tuple(line["shares"])}) for line in lines if "test" in line)
    if any("finish" in line for line in lines):
        return SuiteRun(tests, "", False, wall_s)
    started = [line["start"] for line in lines if "start" in line]
    if not started:
        raise RuntimeError(f"pytest ended with {code} before its first test; see {report.with_suffix('.log')}")
    late = report.with_suffix(".json.late")
    return SuiteRun(tests, started[-1], late.exists() and late.stat().st_size > 0, wall_s)
