"""The fast path: what it shows is what the stock simulation shows, to the last bit."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError
from modereg_integrations.maniskill import ManiSkillEnv
from modereg_integrations.maniskill.scripted import Stage, StagedPlan
from modereg_integrations.maniskill.tabletop import TASKS as OURS

TASKS = [
    ("PickCube-v1", "pd_ee_delta_pos"),
    ("PushCube-v1", "pd_ee_delta_pose"),
    ("LiftPegUpright-v1", "pd_joint_delta_pos"),
]
FINGERS = "panda_leftfinger"


def pair(env_id: str, num_envs: int = 1, **options: object) -> list[ManiSkillEnv]:
    return [ManiSkillEnv(env_id, num_envs, seed=0, fast=fast, **options) for fast in (False, True)]


def equal(stock: TensorDict, fast: TensorDict) -> bool:
    keys = set(stock.keys(True, True))
    return keys == set(fast.keys(True, True)) and all(
        torch.equal(stock[key], fast[key]) for key in keys
    )


@pytest.mark.parametrize(("env_id", "control_mode"), TASKS)
def test_random_actions_show_the_same_whatever_rows_are_reset(
    env_id: str, control_mode: str
) -> None:
    stock, fast = pair(env_id, 2, control_mode=control_mode)
    check_env_specs(fast)
    stock.set_seed(1)
    fast.set_seed(1)
    seen = [stock.reset(), fast.reset()]
    assert equal(*seen)
    generator = torch.Generator().manual_seed(0)
    size = stock.action_spec.shape
    drift = torch.zeros(size)
    for step in range(24):
        if step % 8 == 0:
            drift = 2 * torch.rand(size, generator=generator) - 1
        action = drift + 0.5 * torch.randn(size, generator=generator)  # beyond the bounds too
        seen = [
            env.step(td.copy().set("action", action))["next"]
            for env, td in zip((stock, fast), seen)
        ]
        assert equal(*seen), step
        if step == 11:
            mask = torch.tensor([[False], [True]])
            seen = [
                env.reset(td.copy().set("_reset", mask)) for env, td in zip((stock, fast), seen)
            ]
            assert equal(*seen)
    stock.close()
    fast.close()


def test_a_grasp_is_felt_alike() -> None:
    envs = pair("PickCube-v1", control_mode="pd_ee_delta_pos", info_keys=("is_grasped",))
    seen = [env.reset() for env in envs]
    x, y, z = seen[0]["observation"][0, 29:32].tolist()  # the cube
    plan = StagedPlan(
        [
            Stage((x, y, 0.1), True, 0.03),
            Stage((x, y, z), True, 0.008),
            Stage((x, y, z), False, 1.0, 3),
            Stage((x, y, 0.15), False, 0.0),
        ]
    )
    grasped = []
    for _ in range(40):
        action = plan(seen[0]["observation"][0, 19:22]).unsqueeze(0)
        seen = [env.step(td.copy().set("action", action))["next"] for env, td in zip(envs, seen)]
        assert equal(*seen)
        grasped.append(bool(seen[0]["is_grasped"]))
    assert 5 < sum(grasped) < 35
    assert equal(*(env.reset() for env in envs))  # SAPIEN still knows the former contacts
    for env in envs:
        env.close()


@pytest.mark.parametrize("mode", [0, 2])
def test_the_walls_expert_succeeds_alike(mode: int) -> None:
    wall = OURS["ModeregWall-v1"]
    envs = [wall.env(1, seed=3, fast=fast, pay_spread=0.5) for fast in (False, True)]
    seen = [env.reset() for env in envs]
    expert = wall.expert(mode, seen[0])
    for _ in range(60):
        action = expert(seen[0]).unsqueeze(0)
        seen = [env.step(td.copy().set("action", action))["next"] for env, td in zip(envs, seen)]
        assert equal(*seen)
        if seen[0]["done"].all():
            break
    assert seen[1]["success"].all()
    assert int(seen[1]["mode"]) == mode
    for env in envs:
        env.close()


def test_a_scene_that_is_built_anew_at_every_reset() -> None:
    envs = pair("PegInsertionSide-v1", control_mode="pd_ee_delta_pose", reward_mode="sparse")
    for _ in range(2):
        seen = [env.reset() for env in envs]
        for _ in range(3):
            action = torch.full(envs[0].action_spec.shape, 0.4)
            seen = [
                env.step(td.copy().set("action", action))["next"] for env, td in zip(envs, seen)
            ]
            assert equal(*seen)
    path, sim = envs[1]._paths[0], envs[1]._sims[0]
    assert "set_action" in vars(sim.agent)
    path.remove()
    assert "set_action" not in vars(sim.agent)
    for env in envs:
        env.close()


def test_one_simulation_changes_and_only_until_it_is_closed() -> None:
    stock, fast = pair("PushCube-v1", control_mode="pd_ee_delta_pos")
    plain, changed = stock._sims[0], fast._sims[0]
    links = [sim.agent.robot.links_map[FINGERS] for sim in (plain, changed)]
    own = type(links[0])
    assert type(links[1]) is not own
    assert isinstance(links[1], own)
    methods = [(changed, "_after_reconfigure"), (changed.agent, "is_grasping")]
    methods += [(owner, "set_action") for owner in (changed.agent, changed.agent.controller)]
    assert all(name in vars(owner) for owner, name in methods)
    assert not {"set_action", "is_grasping"} & set(vars(plain.agent))
    fast._paths[0].remove()
    assert type(links[1]) is own
    assert not any(name in vars(owner) for owner, name in methods)
    assert equal(
        *(env.rollout(3, lambda td: td.set("action", torch.ones(1, 4))) for env in (stock, fast))
    )
    stock.close()
    fast.close()


def test_a_closed_one_opens_again_and_is_still_fast() -> None:
    env = ManiSkillEnv("PushCube-v1", control_mode="pd_ee_delta_pos", seed=0, fast="auto")
    first = env.reset()["observation"]
    env.close()
    env.set_seed(0)
    assert torch.equal(env.reset()["observation"], first)
    assert len(env._paths) == 1
    with pytest.raises(ValueError, match="NaN"):
        env.step(env.reset().set("action", torch.full((1, 4), torch.nan)))
    env.close()


@pytest.mark.parametrize(
    ("env_id", "control_mode", "found"),
    [
        ("TwoRobotPickCube-v1", "pd_joint_delta_pos", "2 robots"),
        ("PushCube-v1", "pd_joint_vel", "PDJointVelController"),
        ("PushCube-v1", "pd_ee_target_delta_pos", "PDEEPosController with use_target=True"),
    ],
)
def test_what_is_not_supported_is_refused(env_id: str, control_mode: str, found: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{found}; leave fast=False"):
        ManiSkillEnv(env_id, control_mode=control_mode, fast=True)


def test_what_is_not_supported_is_left_as_it_is_when_asked_so() -> None:
    env = ManiSkillEnv("PushCube-v1", control_mode="pd_joint_vel", fast="auto")
    assert env._paths == []
    assert "set_action" not in vars(env._sims[0].agent)
    env.close()
