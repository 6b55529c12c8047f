"""All scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import scenes_cache, scenes_data, scenes_heads, scenes_mistakes, scenes_published, scenes_studies, scenes_words

if TYPE_CHECKING:
    from .scene import Scene

SCENES: tuple[Scene, ...] = (
    *scenes_studies.SCENES,
    *scenes_heads.SCENES,
    *scenes_published.SCENES,
    *scenes_data.SCENES,
    *scenes_cache.SCENES,
    *scenes_words.SCENES,
    *scenes_mistakes.SCENES,
)
