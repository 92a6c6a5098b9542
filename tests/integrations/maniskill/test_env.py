from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs import EnvBase, ParallelEnv, SerialEnv
from torchrl.envs.utils import check_env_specs

from modereg.errors import ConfigurationError, MissingDependencyError, MissingDeviceError
from modereg_integrations.maniskill import ManiSkillEnv, simulation


def make(num_envs: int = 1, **options: object) -> ManiSkillEnv:
    return ManiSkillEnv("PickCube-v1", num_envs, **{"seed": 0, **options})


@pytest.fixture(scope="module")
def pair() -> ManiSkillEnv:
    return make(2, max_steps=5)


def play(env: EnvBase, seed: int, resets: Callable[[int], list[bool]], steps: int = 12) -> Tensor:
    """Observations ``[steps + 1, N, O]`` of fixed random actions, rows reset where asked."""
    env.set_seed(seed)
    generator = torch.Generator().manual_seed(1)
    low, high = env.action_spec.space.low, env.action_spec.space.high
    td = env.reset()
    seen = [td["observation"]]
    for step in range(steps):
        share = torch.rand(low.shape, generator=generator)
        td = env.step(td.copy().set("action", torch.lerp(low, high, share)))["next"]
        mask = torch.tensor(resets(step)).unsqueeze(-1)
        if mask.any():
            td = env.reset(td.copy().set("_reset", mask))
        seen.append(td["observation"])
    return torch.stack(seen)


@pytest.mark.usefixtures("shared_simulations")
@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("obs_mode", ["state", "state_dict"])
def test_specs(obs_mode: str, num_envs: int) -> None:
    env = make(num_envs, obs_mode=obs_mode)
    check_env_specs(env)
    assert env.batch_size == (num_envs,)
    td = env.rollout(3)
    assert td["next", "success"].shape == (num_envs, 3, 1)
    assert td["next", "success"].dtype == torch.bool
    assert td["next", "reward"].dtype == torch.float32
    env.close()


def test_images() -> None:
    camera = {"width": 16, "height": 16}
    env = make(2, obs_mode="rgb", sensor_configs=camera)
    check_env_specs(env)
    key = ("observation", "sensor_data", "base_camera", "rgb")
    image = env.reset()[key]
    assert (image.shape, image.dtype) == ((2, 16, 16, 3), torch.uint8)
    assert image.float().std() > 10
    env.close()


def test_in_this_process_and_in_another_the_same_is_seen() -> None:
    seen = []
    for nest in (SerialEnv, ParallelEnv):
        env = nest(1, partial(make, 2))
        check_env_specs(env)
        env.set_seed(3)
        torch.manual_seed(0)
        seen.append(env.rollout(4)["next", "observation"])
        env.close()
    assert torch.equal(*seen)
    assert not torch.equal(*seen[0][0])


def test_the_seed_alone_decides_and_rows_are_independent(pair: ManiSkillEnv) -> None:
    seldom = play(pair, 7, lambda step: [step == 4, step == 4])
    torch.rand(3)
    assert torch.equal(play(pair, 7, lambda step: [step == 4, step == 4]), seldom)
    often = play(pair, 7, lambda step: [step == 4, step % 3 == 0])
    assert torch.equal(often[:, 0], seldom[:, 0])
    assert not torch.equal(often[:, 1], seldom[:, 1])
    assert not torch.equal(play(pair, 8, lambda step: [step == 4, step == 4]), seldom)
    assert not torch.equal(seldom[0, 0], seldom[0, 1])


def test_the_global_generator_is_left_alone(pair: ManiSkillEnv) -> None:
    before = torch.random.get_rng_state()
    action = torch.zeros(pair.action_spec.shape)
    pair.step(pair.reset().set("action", action))
    pair.reset(TensorDict({"_reset": torch.tensor([[False], [True]])}, [2]))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_partial_reset_leaves_the_other_rows(pair: ManiSkillEnv) -> None:
    td = pair.rollout(3)[:, -1]["next"]
    mask = torch.tensor([[True], [False]])
    after = pair.reset(td.copy().set("_reset", mask))
    assert torch.equal(after["observation"][1], td["observation"][1])
    assert not torch.equal(after["observation"][0], td["observation"][0])


def test_the_time_limit_truncates_and_done_rows_stand_still(pair: ManiSkillEnv) -> None:
    td = pair.reset()
    steps = []
    for _ in range(7):
        td = pair.rand_action(td)
        td = pair.step(td)["next"]
        steps.append(td)
    truncated = torch.stack([step["truncated"] for step in steps])
    assert truncated[:, 0, 0].tolist() == [False] * 4 + [True] * 3
    assert torch.equal(steps[4]["observation"], steps[6]["observation"])
    assert steps[6]["reward"].abs().sum() == 0
    assert not steps[4]["terminated"].any()


@pytest.mark.usefixtures("shared_simulations")
@pytest.mark.parametrize(("given", "expected"), [("registered", 50), (None, None), (9, 9)])
def test_max_steps(given: object, expected: int | None) -> None:
    env = make(max_steps=given)
    assert env.max_steps == expected
    env.close()


@pytest.mark.usefixtures("shared_simulations")
def test_reward_and_control_modes() -> None:
    options = {"reward_mode": "normalized_dense", "control_mode": "pd_joint_pos"}
    env = make(**options, info_keys=("is_grasped",))
    td = env.rollout(2)
    assert env.action_spec.shape == (1, 8)
    assert 0 < float(td["next", "reward"][0, 0]) < 1
    assert td["is_grasped"].dtype == torch.bool
    env.close()


def test_several_robots_act_side_by_side() -> None:
    env = ManiSkillEnv("TwoRobotPickCube-v1", seed=0, control_mode="pd_joint_delta_pos")
    assert env.action_spec.shape == (1, 16)
    seen = []
    for speed in (0.0, 0.9):
        env.set_seed(0)
        action = torch.zeros(1, 16)
        action[:, 8:15] = speed
        td = env.step(env.reset().set("action", action))
        seen.append(td["next", "observation"])
    changed = (seen[1] - seen[0]).abs() > 1e-3
    assert changed.any()
    assert not changed[:, :9].any()  # the first robot's joints
    env.close()


def test_a_closed_environment_opens_again() -> None:
    env = make()
    env.reset()
    env.close()
    env.set_seed(1)
    first = env.rollout(2)["observation"]
    assert torch.isfinite(first).all()
    env.close()


@pytest.mark.usefixtures("shared_simulations")
def test_options_that_cannot_work() -> None:
    with pytest.raises(ConfigurationError, match="num_envs >= 1, got 0"):
        make(0)
    with pytest.raises(ConfigurationError, match="knows no task 'Nothing-v0'"):
        ManiSkillEnv("Nothing-v0")
    with pytest.raises(ConfigurationError, match=r"Did you mean 'PickCube-v1'\?"):
        ManiSkillEnv("PickCubes-v1")
    with pytest.raises(ConfigurationError, match=r"has no \['colour'\]"):
        make(info_keys=("colour",))


def test_without_maniskill_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mani_skill.envs", None)
    with pytest.raises(MissingDependencyError, match=r"pip install modereg\[maniskill\]"):
        make()


def test_without_a_vulkan_device_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sapien

    def absent() -> None:
        raise RuntimeError("failed to find a rendering device")

    monkeypatch.setattr(sapien.render, "RenderSystem", absent)
    simulation._require_device.cache_clear()
    named = "`python -m modereg_integrations.maniskill.vulkan --prefix .vulkan`"
    with pytest.raises(MissingDeviceError, match=f"failed to find a rendering device.*{named}"):
        make()
