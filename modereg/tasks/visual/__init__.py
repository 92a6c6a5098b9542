"""A task that is seen and told: an image, an instruction, and several routes to what it names."""

from __future__ import annotations

from modereg.tasks.visual.env import (
    APPROACH_KEY,
    IMAGE_KEY,
    INSTRUCTION_KEY,
    STATE_KEY,
    WORDS_KEY,
    VisualAvoid,
)
from modereg.tasks.visual.task import visual_avoid_task
from modereg.tasks.visual.words import INSTRUCTIONS, VOCABULARY, WordTokenizer

__all__ = [
    "APPROACH_KEY",
    "IMAGE_KEY",
    "INSTRUCTIONS",
    "INSTRUCTION_KEY",
    "STATE_KEY",
    "VOCABULARY",
    "WORDS_KEY",
    "VisualAvoid",
    "WordTokenizer",
    "visual_avoid_task",
]
