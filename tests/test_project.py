"""The project around the package: pins that fit, warnings that count, examples that hold."""

from __future__ import annotations

import doctest
import importlib
import itertools
import os
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from histotune import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
IN_A_CHECKOUT = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def declared() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    return [Requirement(text) for group in (PROJECT["project"]["dependencies"], *extras) for text in group]


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_every_declared_library_is_pinned_inside_its_range(requirement: Requirement) -> None:
    version = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_every_declared_library_has_a_lowest_and_an_upper_version(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}
    assert operators == {">=", "<"}, str(requirement)


def test_pins_name_public_versions_and_leave_the_gpu_libraries_to_torch() -> None:
    for name, version in pins().items():
        assert Version(version).local is None, f"{name} is pinned to the build {version}"
        assert not name.startswith(("nvidia-", "cuda-")), name
    assert "histotune" not in pins()


def test_the_version_is_stated_once() -> None:
    assert PROJECT["project"]["version"] == __version__


@IN_A_CHECKOUT
@pytest.mark.skipif(sys.platform == "win32", reason="permission bits")
def test_the_commit_check_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert text.index("make test") < text.index("make check")


@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, FutureWarning, RuntimeWarning])
def test_a_warning_raised_in_a_module_of_the_package_is_an_error(category: type[Warning]) -> None:
    with pytest.raises(category):
        exec("import warnings; warnings.warn('x', category)", {"__name__": "histotune.heads.a", "category": category})


def test_a_warning_raised_elsewhere_is_not() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec("import warnings; warnings.warn('x')", {"__name__": "another.library"})
    assert len(caught) == 1


@pytest.mark.parametrize("name", ["errors", "files", "progress", "provenance", "devices", "doctor"])
def test_examples_in_the_docstrings_of_the_tools_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"histotune.tools.{name}"))
    assert outcome.failed == 0


@IN_A_CHECKOUT
def test_every_make_target_in_the_guide_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        named = set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")))
        assert named <= targets, f"{page.name} names make targets that do not exist: {named - targets}"


@IN_A_CHECKOUT
def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not link.startswith(("http:", "https:", "mailto:")):
                assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}"


@pytest.mark.skipif(sys.platform == "win32", reason="make is not there")
@IN_A_CHECKOUT
def test_make_lists_its_targets() -> None:
    answer = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "bench", "clean", "test-newest", "test-oldest", "wheel"):
        assert f"make {target} " in answer.stdout


@IN_A_CHECKOUT
def test_every_file_that_the_guide_names_exists() -> None:
    aside = {ROOT / "docs" / "log.md"}
    pages = {ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")} - aside
    for page in pages:
        named = set(re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:py|toml))`", page.read_text(encoding="utf-8")))
        missing = {
            name for name in named if not any((base / name).exists() for base in (ROOT, ROOT / "src" / "histotune"))
        }
        assert not missing, f"{page.name} names files that do not exist: {missing}"


@pytest.mark.parametrize(
    "verb", ["embed", "sweep", "evaluate", "run", "matrix", "transfer", "audit", "compare", "predict", "explain"]
)
@IN_A_CHECKOUT
def test_the_way_that_the_map_shows_is_the_way_of_the_imports(verb: str) -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {verb} \| (.*)\|$", text, flags=re.MULTILINE)
    assert row is not None
    files = re.findall(r"`([a-z_/]+)\.py`", row[1])
    assert len(files) <= 3
    for one, other in itertools.pairwise(files):
        source = (ROOT / "src" / "histotune" / f"{one}.py").read_text(encoding="utf-8")
        assert f"histotune.{other.replace('/', '.')} import" in source, f"{one} does not import {other}"
