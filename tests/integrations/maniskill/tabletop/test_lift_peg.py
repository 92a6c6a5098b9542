from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mani_skill.utils.structs.pose import Pose
from scipy.spatial.transform import Rotation
from tensordict import TensorDict

from modereg_integrations.maniskill import make_task
from modereg_integrations.maniskill.env import ManiSkillEnv
from modereg_integrations.maniskill.tabletop import TASKS
from modereg_integrations.maniskill.tabletop.lift_peg import HALF_LENGTH, standing_mode
from modereg_integrations.maniskill.tabletop.poses import Frame, PosePlan, PoseStage

pytestmark = pytest.mark.usefixtures("shared_simulations")

PEG = TASKS["ModeregLiftPeg-v1"]
UPRIGHT = Rotation.from_euler("y", -90, degrees=True)  # blue, the end at +x, goes up


def play(env: ManiSkillEnv, mode: int) -> list[TensorDict]:
    steps = [env.reset()]
    expert = PEG.expert(mode, steps[0])
    while not steps[-1]["done"].any() and len(steps) <= PEG.max_steps:
        steps.append(env.step(steps[-1].copy().set("action", expert(steps[-1])[None]))["next"])
    return steps


def put(env: ManiSkillEnv, rotation: Rotation, height: float = HALF_LENGTH) -> dict:
    """What the task says of a peg in this pose."""
    sim = env._sims[0]
    quaternion = torch.tensor(rotation.as_quat()[None, [3, 0, 1, 2]]).float()
    sim.bodies["peg"].set_pose(Pose.create_from_pq(torch.tensor([[0.0, 0.0, height]]), quaternion))
    return sim.evaluate()


def test_the_expert_stands_the_peg_on_either_end() -> None:
    shown = PEG.demonstrate(4, seed=0)
    assert shown.success.all()
    assert shown.mode_counts(2).tolist() == [2, 2]
    assert shown.lengths.max() < PEG.max_steps
    starts = shown.observations["observation"][:, 0]
    assert 0 < starts.std(0).max() < 0.03  # one start state leads to both modes
    tips = shown.observations["peg_tip"][torch.arange(4), shown.lengths]
    expected = torch.where(shown.modes == 0, 2 * HALF_LENGTH, 0.0)
    torch.testing.assert_close(tips[:, 2], expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("mode", [0, 1])
def test_modes_may_pay_unequally(mode: int) -> None:
    env = PEG.env(seed=0, pay_spread=0.5, start_noise=0.1, fast=True)
    steps = play(env, mode)
    env.close()
    total = sum(float(step["reward"]) for step in steps[1:])
    assert (int(steps[-1]["mode"]), total) == (mode, 1.5 - mode)
    assert steps[0]["observation"][0, 10:12].abs().max() > 0.01  # the peg began farther away
    assert all(int(step["mode"]) == -1 for step in steps[:-1])


def test_success_is_a_peg_that_stands_however_it_is_turned() -> None:
    env = PEG.env(seed=0)
    env.reset()
    held_flat = Rotation.from_euler("xz", (90, 90), degrees=True)
    for flat in (held_flat, Rotation.from_euler("y", 20, degrees=True) * held_flat):
        assert not put(env, flat)["success"]
    assert put(env, flat)["mode"].item() == -1
    assert not put(env, UPRIGHT, HALF_LENGTH + 0.01)["success"]
    for turn in (0, 45, 90, 200):
        found = put(env, Rotation.from_euler("z", turn, degrees=True) * UPRIGHT)
        assert found["success"]
    assert found["mode"].item() == 0
    assert put(env, UPRIGHT.inv())["mode"].item() == 0  # the first success of an episode decides
    env.reset()
    assert put(env, UPRIGHT.inv())["mode"].item() == 1
    env.close()


def test_an_action_turns_the_hand_as_the_plan_means_it() -> None:
    env = PEG.env(seed=0)
    td = env.reset()
    seen = td["observation"][0]
    tip = tuple(seen[1:4].tolist())
    tilted = Rotation.from_euler("y", -0.5) * Rotation.from_euler("x", 180, degrees=True)
    leaning = torch.tensor(tilted.as_matrix()).float()
    plan = PosePlan([PoseStage("tool", tip, leaning, True, 0.0)])
    for _ in range(25):
        seen = td["observation"][0]
        hand = torch.stack([seen[4:7], seen[7:10].cross(seen[4:7], dim=0), seen[7:10]], dim=1)
        action = plan({"tool": Frame(seen[1:4], hand)})
        assert action.abs().max() <= 1
        td = env.step(td.copy().set("action", action[None]))["next"]
    env.close()
    seen = td["observation"][0]
    torch.testing.assert_close(seen[7:10], leaning[:, 2], atol=0.02, rtol=0)
    torch.testing.assert_close(seen[1:4], torch.tensor(tip), atol=0.01, rtol=0)


def test_the_expert_shows_the_starts_of_the_task() -> None:
    task = make_task("ModeregLiftPeg-v1", start_noise=0.1)
    assert task.demonstrate is not None
    shown = task.demonstrate(2, 1)
    env = task.make_env(2, device="cpu", seed=0)
    drawn = env.reset()["observation"][:, 10:12]
    env.close()
    assert shown.success.all()
    for peg in (shown.observations["observation"][:, 0, 10:12], drawn):
        assert 0.02 < peg.abs().max() < 0.1


@pytest.mark.parametrize(
    ("tilt", "height", "mode"),
    [
        (0.0, 0.0, 0),
        (0.07, 0.004, 0),
        (0.09, 0.0, -1),
        (0.0, 0.006, -1),
        (math.pi / 2, 0.0, -1),  # held flat, at the height of a peg that stands
        (math.pi, 0.0, 1),
        (math.pi + 0.07, -0.004, 1),
        (math.pi + 0.09, 0.0, -1),
    ],
)
@given(heading=st.floats(0, 6.3))
def test_which_end_is_up(tilt: float, height: float, mode: int, heading: float) -> None:
    flat = math.sin(tilt)
    axis = torch.tensor([flat * math.cos(heading), flat * math.sin(heading), math.cos(tilt)])
    assert int(standing_mode(torch.tensor([0.0, 0.0, HALF_LENGTH + height]), axis)) == mode
