from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDictBase
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError
from modereg.tasks import Avoid, avoid_task
from modereg.tasks.avoid import route_pay
from modereg.tasks.avoid_geometry import CYLINDERS, GOAL_Y, MODE_NAMES, ROWS_Y, gaps_of_modes

CENTRES = ((0.5,), (0.425, 0.575), (0.35, 0.5, 0.65))


class Reference:
    """Avoid for one episode, in plain Python, from its description."""

    def __init__(self, start: list[float]) -> None:
        self.desired, self.current = list(start), list(start)
        self.gaps: list[int | None] = [None] * 3
        self.steps, self.outcome = 0, None

    def step(self, action: list[float]) -> None:
        if self.outcome is not None:
            return
        for axis in range(2):
            self.desired[axis] += min(max(action[axis], -0.015), 0.015)
            self.current[axis] += 0.5 * (self.desired[axis] - self.current[axis])
        self.steps += 1
        x, y = self.current
        for row, height in enumerate(ROWS_Y):
            if self.gaps[row] is None and y > height:
                self.gaps[row] = sum(x > centre for centre in CENTRES[row])
        if any(math.hypot(x - cx, y - cy) < radius for cx, cy, radius in CYLINDERS):
            self.outcome = "hit"
        elif y > GOAL_Y:
            self.outcome = "success"
        elif self.steps == 96:
            self.outcome = "late"

    @property
    def mode(self) -> int:
        if None in self.gaps:
            return -1
        return 12 * self.gaps[0] + 4 * self.gaps[1] + self.gaps[2]


def steer_through(env: Avoid, lanes: torch.Tensor) -> TensorDictBase:
    """Goes up in straight lines: sideways below each row, then through it."""
    rows = torch.tensor([*ROWS_Y, 9.0])
    root = env.reset()
    for _ in range(200):
        desired, current = root["observation"].split(2, -1)
        row = (current[:, 1:] > rows[:3] + 0.04).sum(-1)
        aside = lanes[torch.arange(len(lanes)), row] - desired[:, 0]
        up = torch.where(aside.abs() < 1e-4, 0.015, 0.0)
        root = env.step(root.set("action", torch.stack([aside, up], -1)))["next"]
    return root


def test_modes_of_straight_routes() -> None:
    lanes = torch.tensor(
        [[*(x[gap] for x, gap in zip(XS, name, strict=True)), 0.0] for name in ROUTES]
    )
    lanes[:, 3] = lanes[:, 2]
    env = Avoid(len(lanes), start_noise=0.0, max_steps=200, pay=torch.arange(24.0))
    last = steer_through(env, lanes)
    assert last["success"].all()
    assert [MODE_NAMES[mode] for mode in last["mode"].flatten()] == ["-".join(r) for r in ROUTES]


def test_an_episode_after_a_reset_decides_its_mode_anew() -> None:
    env = Avoid(2, start_noise=0.0, max_steps=200)
    left, right = torch.tensor([[0.44, 0.38, 0.3, 0.3]]), torch.tensor([[0.56, 0.62, 0.7, 0.7]])
    assert steer_through(env, torch.cat([left, right]))["mode"].tolist() == [[0], [23]]
    assert steer_through(env, torch.cat([right, left]))["mode"].tolist() == [[23], [0]]


XS = (
    {"L": 0.44, "R": 0.56},
    {"L": 0.38, "M": 0.5, "R": 0.62},
    {"LL": 0.3, "L": 0.42, "R": 0.58, "RR": 0.7},
)
ROUTES = [(a, b, c) for a in XS[0] for b in XS[1] for c in XS[2]]


@given(
    seed=st.integers(0, 2**16),
    drift=st.floats(-0.006, 0.006),
    climb=st.floats(0.004, 0.014),
    shake=st.floats(0.0, 0.02),
)
def test_any_episode_equals_the_plain_reference(
    seed: int, drift: float, climb: float, shake: float
) -> None:
    num = 8
    env = Avoid(num, seed=seed, pay_spread=0.3, dtype=torch.float64, start_noise=0.03)
    generator = torch.Generator().manual_seed(seed)
    root = env.reset()
    references = [Reference(start[:2].tolist()) for start in root["observation"]]
    total = torch.zeros(num)
    for _ in range(98):
        noise = shake * torch.randn(num, 2, generator=generator, dtype=torch.float64)
        action = torch.tensor([drift, climb], dtype=torch.float64) + noise
        root = env.step(root.set("action", action))["next"]
        total += root["reward"].squeeze(-1)
        for reference, move in zip(references, action.tolist(), strict=True):
            reference.step(move)
        outcomes = [reference.outcome for reference in references]
        expected = {
            "observation": [[*reference.desired, *reference.current] for reference in references],
            "success": [[outcome == "success"] for outcome in outcomes],
            "done": [[outcome is not None] for outcome in outcomes],
            "terminated": [[outcome is not None] for outcome in outcomes],
            "mode": [[reference.mode] for reference in references],
            "elapsed": [[reference.steps / 96] for reference in references],
        }
        for key, value in expected.items():
            torch.testing.assert_close(root[key], torch.tensor(value, dtype=root[key].dtype))
    for reference, paid in zip(references, total.tolist(), strict=True):
        won = reference.outcome == "success"
        expected = 1 + 0.3 * (reference.mode % 4 - 1.5) / 1.5 if won else 0.0
        assert paid == pytest.approx(expected)


@pytest.mark.parametrize("index", range(6))
def test_contact_ends_the_episode(index: int) -> None:
    x, y, radius = CYLINDERS[index]
    env = Avoid(2)
    points = torch.tensor([[x, y - radius + 1e-4], [x, y - radius - 1e-4]])
    success, failure, _ = env.judge(points)
    assert failure.tolist() == [True, False]
    assert not success.any()


def test_an_ended_episode_stays_ended_and_earns_once() -> None:
    env = Avoid(1, start_noise=0.0)
    root, rewards = env.reset(), []
    for step in range(96):
        x = -0.015 if step < 9 else 0.0
        root = env.step(root.set("action", torch.tensor([[x, 0.01]])))["next"]
        rewards.append(root["reward"].item())
        if root["done"].item():
            break
    assert root["success"].item()
    ended = root.clone()
    for _ in range(5):
        root = env.step(root.set("action", torch.tensor([[0.01, -0.015]])))["next"]
        rewards.append(root["reward"].item())
        assert (root.select(*ended.keys()).exclude("reward") == ended.exclude("reward")).all()
    assert sum(rewards) == 1.0


def test_pay_of_routes() -> None:
    pay = route_pay(0.3)
    torch.testing.assert_close(pay[:4], torch.tensor([0.7, 0.9, 1.1, 1.3]))
    torch.testing.assert_close(pay.view(6, 4), pay[:4].expand(6, 4))
    assert (route_pay(0.0) == 1).all()


def test_names_follow_the_gaps() -> None:
    gaps = gaps_of_modes(torch.arange(24))
    rows = ("LR", "LMR", ("LL", "L", "R", "RR"))
    names = ["-".join(row[gap] for row, gap in zip(rows, g, strict=True)) for g in gaps.tolist()]
    assert tuple(names) == MODE_NAMES


def test_steps_that_could_jump_over_a_cylinder_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="use at most 0.0177"):
        Avoid(2, max_delta=0.02)


def test_task() -> None:
    task = avoid_task(pay_spread=0.5)
    assert task.layout.max_decisions == 12
    env = task.make_env(3, device="cpu", seed=1)
    check_env_specs(env)
    assert env.max_steps == task.layout.max_steps
    torch.testing.assert_close(env.pay, route_pay(0.5))
    assert env.num_modes == task.num_modes == len(task.mode_names)
    assert set(task.layout.steering_keys) <= set(env.observation_spec.keys())


@pytest.mark.parametrize("blocked", [5, (5, 23), [0]])
def test_whatever_goes_through_a_blocked_route_fails(blocked: int | Sequence[int]) -> None:
    lanes = torch.tensor(
        [[*(x[gap] for x, gap in zip(XS, name, strict=True)), 0.0] for name in ROUTES]
    )
    lanes[:, 3] = lanes[:, 2]
    env = Avoid(len(lanes), start_noise=0.0, max_steps=200, blocked=blocked)
    last = steer_through(env, lanes)
    closed = torch.isin(last["mode"], torch.tensor(blocked))
    assert closed.sum() == (1 if isinstance(blocked, int) else len(blocked))
    assert torch.equal(last["success"], ~closed)
    assert last["terminated"].all()
    assert not last["reward"][closed].any()
    made = avoid_task(blocked=blocked).make_env(2)
    assert torch.equal(made._closed, env._closed)
    assert env.to("cpu")._closed is not None


def test_the_expert_knows_of_no_blocked_route() -> None:
    demonstrations = avoid_task(blocked=list(range(24))).demonstrate(24, 0)
    assert demonstrations.success.float().mean() > 0.8


@pytest.mark.parametrize("blocked", [24, -1, (0, 30)])
def test_a_route_that_is_none_cannot_be_blocked(blocked: int | tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected blocked modes in \[0, 24\), got \["):
        Avoid(2, blocked=blocked)
