from __future__ import annotations

import pytest
import torch

from modereg.tasks import GaussianMixture, gaussian_mixture_task
from modereg.tasks.gaussian_mixture import GOAL_RADIUS, GOALS, goal_pay


def test_going_straight_to_a_goal_reaches_its_mode_and_is_paid_for_it() -> None:
    env = GaussianMixture(4, pay_spread=0.3, start_noise=0.0)
    rollout = env.rollout(24, lambda td: td.set("action", torch.tensor(GOALS).sign() * 0.08))
    last = rollout[:, -1]["next"]
    assert last["success"].all()
    assert last["mode"].flatten().tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(rollout["next", "reward"].sum(1).squeeze(-1), goal_pay(0.3))
    assert rollout.shape[1] == 7  # |.7 - .08 n| sqrt 2 < .2 at n = 7


def test_success_is_a_disc_around_each_goal() -> None:
    env = GaussianMixture(8)
    goals = torch.tensor(GOALS)
    inside = goals + torch.tensor([GOAL_RADIUS - 1e-3, 0.0])
    outside = goals + torch.tensor([0.0, GOAL_RADIUS + 1e-3])
    success, failure, mode = env.judge(torch.cat([inside, outside]))
    assert success.tolist() == [True] * 4 + [False] * 4
    assert mode.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    assert not failure.any()


def test_goals_pay_from_more_to_less() -> None:
    torch.testing.assert_close(goal_pay(0.3), torch.tensor([1.3, 1.1, 0.9, 0.7]))


def test_the_expert_reaches_every_goal_with_its_share() -> None:
    task = gaussian_mixture_task()
    first = task.demonstrate(400, 0, keep_failures=True)
    assert first.success.float().mean() > 0.95
    shared = task.demonstrate(80, 0, shares=[5, 2, 1, 0])
    assert shared.success.all()
    assert shared.mode_counts(4).tolist() == [50, 20, 10, 0]


def test_task() -> None:
    task = gaussian_mixture_task(pay=[1.0, 2.0, 3.0, 4.0])
    env = task.make_env(2, device="cpu")
    assert task.layout.max_decisions == 6
    assert env.max_steps == task.layout.max_steps
    assert env.pay.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert env.num_modes == task.num_modes == 4


@pytest.mark.parametrize("seed", [0, 1])
def test_demonstrations_reproduce(seed: int) -> None:
    task = gaussian_mixture_task()
    assert torch.equal(task.demonstrate(8, seed).actions, task.demonstrate(8, seed).actions)
