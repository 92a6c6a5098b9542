"""CPU time of alternatives, measured in turns, so that a busy machine disturbs them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["measure", "seconds"]


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of one call, over several in a row."""
    start = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - start) / repeats


def measure(functions: Sequence[Callable[[], Any]], rounds: int, minimum: float) -> list[Tensor]:
    """CPU seconds of each function in each round; the order rotates from round to round.

    Args:
        functions: what to compare.
        rounds: how often each is measured.
        minimum: seconds that one measurement of the first function should take at least.
    """
    repeats = max(1, round(minimum / max(seconds(functions[0], 2), 1e-6)))
    measured = torch.zeros(len(functions), rounds)
    for turn in range(rounds):
        for position in range(len(functions)):
            index = (position + turn) % len(functions)
            measured[index, turn] = seconds(functions[index], repeats)
    return list(measured)
