"""The scripted expert of the visual task."""

from __future__ import annotations

import torch

from modereg.tasks.visual import INSTRUCTION_KEY, STATE_KEY, visual_avoid_task

demonstrate = visual_avoid_task().demonstrate


def test_first_attempts_succeed_in_the_mode_that_was_asked_for() -> None:
    shown = demonstrate(300, 0, keep_failures=True)
    assert shown.success.float().mean() >= 0.95
    assert shown.mode_counts(6).min() >= 42  # of 50


def test_the_mode_is_independent_of_start_and_instruction() -> None:
    shown = demonstrate(400, 1)
    assert bool(shown.success.all())
    modes = torch.nn.functional.one_hot(shown.modes, 6).float()
    tokens = shown.observations[INSTRUCTION_KEY][:, 0, 2:].float()
    context = torch.cat([shown.observations[STATE_KEY][:, 0], tokens], -1)
    context = context[:, context.std(0) > 0]
    together = torch.corrcoef(torch.cat([modes, context], -1).T)[:6, 6:]
    assert together.abs().max() < 4 / 400**0.5


def test_shares() -> None:
    shown = demonstrate(40, 0, shares=[0, 3, 0, 1, 0, 0])
    assert shown.mode_counts(6).tolist() == [0, 30, 0, 10, 0, 0]
