"""What was scored and what every table warns of: the names of arms and marks, each once.

Records, predictions and trials hold an arm's id; where an arm is shown, its words are looked up here. Marks are shown
as they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Ids of arms: in scores.json, in the column ``arm`` of predictions and trials, and in runs of the past. They never
# change; what people read may.
PROBE: Final = "probe"
TUNED: Final = "fine-tuned"
VARIED: Final = "probe on varied tiles"
RANDOM_SPLIT: Final = "probe, random image split"
REPEATED: Final = "probe, other training cases"
DIFFERENCE: Final = "difference (random - grouped)"
NULL_GROUPED: Final = "null control"
NULL_RANDOM: Final = "null control, random image split"
RANDOM_WEIGHTS: Final = "random-weight backbone + probe"
RANDOM_SEEDS: Final = "random-weight backbone + probe, three draws of the weights"
COLOUR_HISTOGRAM: Final = "colour histogram + probe"
UNTUNED: Final = "untuned head"
MAJORITY: Final = "majority class"

# Marks: warnings that stand beside every number they concern.
LEAKY: Final = "LEAKY"  # tiles of one group on both sides of a split
TOO_NARROW: Final = "TOO NARROW"  # intervals as if tiles were independent
SYNTHETIC: Final = "SYNTHETIC"  # tissue rendered by a program
EXTERNAL: Final = "EXTERNAL"  # embeddings that somebody else computed, unverified
LABEL_MOVED: Final = "LABEL MOVED"  # the view moves or cuts the region that the label speaks about
SKIPPED: Final = "SKIPPED"  # unreadable tiles left out, with their number before it
MARKS: Final = (LEAKY, TOO_NARROW, SYNTHETIC, EXTERNAL, LABEL_MOVED, SKIPPED)


@dataclass(frozen=True)
class Arm:
    """What was scored: the probe, the probe under other conditions, or a floor.

    Attributes:
        id: What is stored.
        words: What people read; empty where it is the id.
        short: The same where there is little room; empty where it is the words.
        is_floor: Whether it says what a score is worth without the backbone or without training.
    """

    id: str
    words: str = ""
    short: str = ""
    is_floor: bool = False


ARMS: Final = {
    arm.id: arm
    for arm in (
        Arm(PROBE),
        Arm(TUNED, words="fine-tuned, or the probe where it did not help", short="fine-tuned or probe"),
        Arm(VARIED, words="probe on the same varied tiles"),
        Arm(RANDOM_SPLIT),
        Arm(REPEATED),
        Arm(DIFFERENCE),
        Arm(NULL_GROUPED),
        Arm(NULL_RANDOM),
        Arm(RANDOM_WEIGHTS, short="random weights", is_floor=True),
        Arm(RANDOM_SEEDS),
        Arm(COLOUR_HISTOGRAM, short="colour histogram", is_floor=True),
        Arm(UNTUNED, is_floor=True),
        Arm(MAJORITY, is_floor=True),
    )
}
FLOORS: Final = tuple(arm.id for arm in ARMS.values() if arm.is_floor)
"""Ids of the floors, in the order in which tables and pictures show them."""


def arm_words(arm: str) -> str:
    """Return what people read for an arm; the id of an arm that is not known here.

    Example:
        >>> arm_words(MAJORITY)
        'majority class'
    """
    known = ARMS.get(arm)
    return known.words or arm if known is not None else arm


def short_words(arm: str) -> str:
    """Return an arm's short words, for where it stands among its likes.

    Example:
        >>> short_words(RANDOM_WEIGHTS), short_words(UNTUNED)
        ('random weights', 'untuned head')
    """
    known = ARMS.get(arm)
    return (known.short if known is not None else "") or arm_words(arm)


def skipped_mark(n_skipped: int) -> str:
    """Return the mark of tiles that were left out.

    Example:
        >>> skipped_mark(1200)
        '1,200 SKIPPED'
    """
    return f"{n_skipped:,} {SKIPPED}"
