"""Findings become figures, tables and pages."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.report.figure_files import draw_run as draw_run
    from histotune.report.figure_files import save_figures as save_figures
    from histotune.report.page import write_report as write_report
    from histotune.report.run_folder import ReportInputs as ReportInputs
    from histotune.report.run_folder import add_study as add_study
    from histotune.report.run_folder import load_run as load_run
    from histotune.report.run_folder import save_run as save_run
    from histotune.report.study_pages import write_audit as write_audit
    from histotune.report.study_pages import write_comparison_page as write_comparison_page
    from histotune.report.study_pages import write_transfer_page as write_transfer_page

FILES = {
    "ReportInputs": "run_folder",
    "add_study": "run_folder",
    "draw_run": "figure_files",
    "load_run": "run_folder",
    "save_figures": "figure_files",
    "save_run": "run_folder",
    "write_audit": "study_pages",
    "write_comparison_page": "study_pages",
    "write_report": "page",
    "write_transfer_page": "study_pages",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)


class Room(ModuleType):
    """A room whose name is also a verb: ``histotune.report(...)`` works before and after the room was imported."""

    def __call__(self, *arguments: object, **options: object) -> object:
        """Call the verb of this name."""
        return import_module("histotune.studies.report_verb").report(*arguments, **options)


sys.modules[__name__].__class__ = Room
