"""The staged plan and the demonstrations that scripted experts share, on a task of pure torch."""

from __future__ import annotations

from functools import partial

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg.tasks import Avoid
from modereg.tasks.avoid_expert import RoutePlanner
from modereg.tasks.avoid_geometry import LANES, gaps_of_modes
from modereg_integrations.maniskill.scripted import Stage, StagedPlan, demonstrate

STEPS = 96
make_env = partial(Avoid, start_noise=0.01)


def route_expert(mode: int, start: TensorDictBase) -> object:
    gaps = gaps_of_modes(torch.tensor(mode)).tolist()
    lanes = [lane[gap] for lane, gap in zip(LANES, gaps)]
    planner = RoutePlanner(torch.tensor([[*lanes, lanes[-1]]]), max_delta=0.015)
    return lambda td: planner(td["observation"][:, :2], td["observation"][:, 2:])[0]


def follow(plan: StagedPlan, tool: Tensor, steps: int, gain: float = 0.05) -> Tensor:
    """Actions ``[steps, 4]`` of a plan for a tool that follows them at once."""
    actions = []
    for _ in range(steps):
        actions.append(plan(tool))
        tool = tool + gain * actions[-1][:3]
    return torch.stack(actions)


def test_a_far_tool_moves_at_full_speed_and_a_near_one_in_proportion() -> None:
    plan = StagedPlan([Stage((0.3, 0.0, 0.0), True, 0.01)], full_speed=0.6)
    torch.testing.assert_close(plan(torch.zeros(3)), torch.tensor([0.6, 0.0, 0.0, 1.0]))
    near = plan(torch.tensor([0.3, 0.02, 0.0]))
    torch.testing.assert_close(near, torch.tensor([0.0, -0.2, 0.0, 1.0]))


def test_stages_follow_each_other_and_the_last_one_stays() -> None:
    stages = [
        Stage((0.1, 0.0, 0.0), True, 0.02),
        Stage((0.1, 0.0, 0.0), False, 1.0, steps=3),
        Stage((0.1, 0.2, 0.0), False, 0.0),
    ]
    plan = StagedPlan(stages)
    actions = follow(plan, torch.zeros(3), 40)
    opened = actions[:, 3].tolist()
    closes = opened.index(-1.0)
    assert opened == [1.0] * closes + [-1.0] * (40 - closes)
    # closed, it stays for three steps before it moves to the left
    assert actions[closes : closes + 3, 1].abs().max() < 0.05
    assert actions[closes + 3, 1] > 0.5
    assert plan.stage == 2


def test_demonstrations_store_the_clean_action_and_play_the_shaken_one() -> None:
    show = partial(
        demonstrate, make_env, route_expert, 24, 6, 3, max_steps=STEPS, observed=["observation"]
    )
    clean, shaken = show(noise=0.0), show(noise=0.003)
    assert clean.success.all()
    assert clean.modes.tolist() != [-1] * 6
    assert torch.equal(clean.actions[:, 0], shaken.actions[:, 0])  # one start, one expert
    position = shaken.observations["observation"][:, :, :2]
    moved = position[:, 1] - position[:, 0] - shaken.actions[:, 0]
    assert 0.0005 < moved.std() < 0.006  # what the hand added
    still = (
        clean.observations["observation"][:, 1, :2] - clean.observations["observation"][:, 0, :2]
    )
    torch.testing.assert_close(still, clean.actions[:, 0], atol=1e-6, rtol=0)


def test_the_mode_is_drawn_and_the_start_does_not_depend_on_it() -> None:
    show = partial(demonstrate, make_env, route_expert, 24, 3, 5, max_steps=STEPS, noise=0.0)
    first, second = (show(observed=["observation"], shares=torch.eye(24)[mode]) for mode in (2, 21))
    assert first.modes.tolist() == [2] * 3
    assert second.modes.tolist() == [21] * 3
    starts = [each.observations["observation"][:, 0] for each in (first, second)]
    assert torch.equal(*starts)
    assert starts[0].std(0).max() > 0


def test_a_short_limit_ends_in_padding_and_failures_are_kept() -> None:
    shown = demonstrate(
        make_env, route_expert, 24, 2, 0, max_steps=7, observed=["observation"], noise=0.0
    )
    assert shown.lengths.tolist() == [7, 7]
    assert not shown.success.any()
    assert shown.modes.tolist() == [-1, -1]
    assert shown.actions.shape == (2, 7, 2)
    assert shown.observations["observation"].shape[:2] == (2, 8)
