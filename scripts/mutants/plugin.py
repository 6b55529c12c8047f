"""What pytest does for the mutants: writes down each test's result and time, and runs given tests in a given order.

Loaded with ``-p scripts.mutants.plugin``. Settings come by the environment:

- ``HISTOTUNE_MUTANT_REPORT``: file to which a JSON line is added per test and at the end;
- ``HISTOTUNE_MUTANT_TESTS``: file with a JSON list of tests: these only, in this order.

While a test's module is imported, ``HISTOTUNE_MUTANT_IMPORTS`` holds its name: what it reaches is reached by all tests
of the file.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

MEMORY_BYTES = 8 * 2**30
BUILT_IN = "_pytest."


def pytest_configure(config: pytest.Config) -> None:
    """Bound the memory that a mutant can take, and start the report."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    config.pluginmanager.register(_Caches(), "histotune-mutants-caches")
    config.pluginmanager.register(_Imports(), "histotune-mutants-imports")
    if os.environ.get("HISTOTUNE_MUTANT_REPORT") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Report(Path(os.environ["HISTOTUNE_MUTANT_REPORT"])), "histotune-mutants-report")
    if os.environ.get("HISTOTUNE_MUTANT_TESTS"):
        listed = json.loads(Path(os.environ["HISTOTUNE_MUTANT_TESTS"]).read_text(encoding="utf-8"))
        config.pluginmanager.register(_Selection(listed), "histotune-mutants-selection")


class _Imports:
    """Says which test module is being imported."""

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        around = os.environ.get("HISTOTUNE_MUTANT_IMPORTS", "")
        os.environ["HISTOTUNE_MUTANT_IMPORTS"] = collector.nodeid
        try:
            return (yield)
        finally:
            os.environ["HISTOTUNE_MUTANT_IMPORTS"] = around


class _Caches:
    """Forgets what the package's cached functions remember, so that each test reaches what it needs itself."""

    def __init__(self) -> None:
        self._n_modules = 0
        self._cached: list[functools._lru_cache_wrapper[object]] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if len(sys.modules) != self._n_modules:
            self._n_modules = len(sys.modules)
            modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "histotune"]
            values = [value for module in modules for value in vars(module).values()]
            self._cached = [value for value in values if isinstance(value, functools._lru_cache_wrapper)]
        for function in self._cached:
            function.cache_clear()
        item.user_properties.append(("shares", _shared_fixtures(item)))


def _shared_fixtures(item: pytest.Item) -> list[str]:
    """Return the fixtures that a test shares with other tests, by the place of their definition."""
    information = getattr(item, "_fixtureinfo", None)
    definitions = {} if information is None else information.name2fixturedefs
    return sorted(
        f"{one.baseid}::{name}"
        for name, (*_, one) in definitions.items()
        if one.scope != "function" and not one.func.__module__.startswith(BUILT_IN)
    )


class _Report:
    """Writes each test's outcome and time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._time_s: dict[str, float] = {}
        self._worst: dict[str, str] = {}

    def _write(self, **line: object) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(start=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid
        self._time_s[test] = self._time_s.get(test, 0.0) + report.duration
        if self._worst.get(test, "passed") == "passed" or report.failed:
            self._worst[test] = report.outcome
        if report.when == "teardown":
            shares = dict(report.user_properties).get("shares", [])
            time_s = round(self._time_s.pop(test), 3)
            self._write(test=test, outcome=self._worst.pop(test), time_s=time_s, shares=shares)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(test=report.nodeid, outcome="failed", time_s=0.0, shares=[])

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write(finish=int(exitstatus))


class _Selection:
    """Runs the listed tests only, in their order."""

    def __init__(self, tests: list[str]) -> None:
        self._tests = tests

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        place = {test: number for number, test in enumerate(self._tests)}
        left_out: Sequence[pytest.Item] = [item for item in items if item.nodeid not in place]
        config.hook.pytest_deselected(items=left_out)
        items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])
