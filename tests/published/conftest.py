"""The small data sets of the tests of evaluation."""

from __future__ import annotations

from tests.evaluation.conftest import material

__all__ = ["material"]
