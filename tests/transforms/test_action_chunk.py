"""ActionChunk against hand loops over environments that end inside a chunk."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tensordict import TensorDict
from torch import nn
from torchrl.envs import (
    EnvBase,
    GymEnv,
    GymWrapper,
    PendulumEnv,
    SerialEnv,
    StepCounter,
    TransformedEnv,
)
from torchrl.modules import ValueOperator
from torchrl.objectives.value import GAE

from modereg import keys
from modereg.errors import ConfigurationError, ShapeError, TerminalObservationError
from modereg.tasks.gaussian_mixture import GaussianMixture
from modereg.testing import CountingEnv, counting_gym
from modereg.transforms import ActionChunk, TimeLimit

LENGTHS = (3, 7, 4)


def vector_gym(mode: AutoresetMode) -> EnvBase:
    makers = [partial(counting_gym, length) for length in LENGTHS]
    return GymWrapper(SyncVectorEnv(makers, autoreset_mode=mode))


ENVIRONMENTS = {
    "batched": partial(CountingEnv, LENGTHS),
    "serial": lambda: SerialEnv(3, [partial(CountingEnv, length) for length in LENGTHS]),
    "gymnasium_serial": lambda: SerialEnv(
        3, [lambda length=length: GymWrapper(counting_gym(length)) for length in LENGTHS]
    ),
    "gymnasium_same_step": partial(vector_gym, AutoresetMode.SAME_STEP),
    "gymnasium_disabled": partial(vector_gym, AutoresetMode.DISABLED),
}


def reference(length: int, chunks: torch.Tensor, execute: int, offset: int, gamma: float) -> dict:
    """Play the decisions ``[T, H, A]`` of one sub-environment, resetting at each end."""
    count, total = 0, torch.zeros(chunks.shape[-1])
    rows: dict[str, list] = {name: [] for name in ("root", "next", "reward", "steps", "done")}
    for chunk in chunks:
        rows["root"].append(torch.cat([torch.tensor([float(count)]), total]))
        reward, steps = 0.0, 0
        for action in chunk[offset : offset + execute].clamp(-0.5, 0.5):
            reward += gamma**steps * (1 + float(action.sum()))
            count, total, steps = count + 1, total + action, steps + 1
            if count == length:
                break
        done = count == length
        rows["next"].append(torch.cat([torch.tensor([float(count)]), total]))
        rows["reward"].append(torch.tensor([reward]))
        rows["steps"].append(torch.tensor([steps]))
        rows["done"].append(torch.tensor([done]))
        if done:
            count, total = 0, torch.zeros_like(total)
    return {name: torch.stack(values) for name, values in rows.items()}


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize(("execute", "offset", "horizon"), [(4, 0, None), (3, 1, 6), (1, 0, None)])
def test_chunks_play_as_a_hand_loop(name: str, execute: int, offset: int, horizon: int | None):
    chunk = ActionChunk(execute, offset, gamma=0.9, horizon=horizon)
    env = TransformedEnv(ENVIRONMENTS[name](), chunk) if "gym" not in name else None
    if env is None:
        env = ENVIRONMENTS[name]()
        env = (
            env.append_transform(chunk)
            if isinstance(env, TransformedEnv)
            else TransformedEnv(env, chunk)
        )
    data = env.rollout(
        9,
        lambda td: td.set("action", torch.randn(env.action_spec.shape) * 0.4),
        break_when_any_done=False,
    )
    for row, length in enumerate(LENGTHS):
        expected = reference(length, data["action"][row], execute, offset, 0.9)
        torch.testing.assert_close(data["observation"][row], expected["root"])
        torch.testing.assert_close(data["next", "observation"][row], expected["next"])
        torch.testing.assert_close(data["next", "reward"][row].float(), expected["reward"])
        assert torch.equal(data["next", keys.STEPS][row], expected["steps"])
        assert torch.equal(data["next", "done"][row], expected["done"])
    env.close()


def test_two_full_resets_of_a_same_step_environment_start_fresh():
    env = vector_gym(AutoresetMode.SAME_STEP).append_transform(ActionChunk(4))
    for _ in range(2):
        data = env.rollout(3, break_when_any_done=False)
        assert not data["observation"][:, 0].any()


def test_the_executed_window_is_clipped_and_the_share_counts_played_actions_only():
    env = TransformedEnv(CountingEnv([2, 9]), ActionChunk(4, 1, horizon=5))
    chunk = torch.zeros(2, 5, 2)
    chunk[:, 2, 0] = 7.0  # the second action of the window
    chunk[:, 4] = -7.0  # the fourth, which the first row does not live to see
    td = env.step(env.reset().set("action", chunk))["next"]
    torch.testing.assert_close(td[keys.EXECUTED], chunk[:, 1:].clamp(-0.5, 0.5))
    torch.testing.assert_close(td[keys.CLIPPED], torch.tensor([[1 / 4], [3 / 8]]))
    assert td[keys.STEPS].tolist() == [[2], [4]]


def test_an_unbounded_action_is_not_clipped():
    env = TransformedEnv(CountingEnv([9], bound=None), ActionChunk(2))
    td = env.step(env.reset().set("action", torch.full((1, 2, 2), 50.0)))["next"]
    assert td[keys.CLIPPED].item() == 0
    assert td["observation"][0, 1] == 100


def test_an_episode_of_one_step_has_length_one():
    env = TransformedEnv(CountingEnv([1, 1]), ActionChunk(3))
    data = env.rollout(3, break_when_any_done=False)
    assert (data["next", keys.STEPS] == 1).all()
    assert data["next", "done"].all()


def test_an_environment_that_is_done_at_reset_is_refused():
    env = TransformedEnv(CountingEnv([0, 3]), ActionChunk(2))
    with pytest.raises(ConfigurationError, match="not done at reset, got 1 of 2"):
        env.reset()


def test_transforms_below_see_environment_steps():
    env = TransformedEnv(CountingEnv([3, 7]), StepCounter())
    env.append_transform(TimeLimit(5, "truncates")).append_transform(ActionChunk(4))
    data = env.rollout(2, break_when_any_done=False)
    assert data["next", "step_count"].squeeze(-1).tolist() == [[3, 3], [4, 5]]
    torch.testing.assert_close(
        data["next", keys.ELAPSED].squeeze(-1), torch.tensor([[0.6, 0.6], [0.8, 1.0]])
    )
    assert data["next", "truncated"].squeeze(-1).tolist() == [[False, False], [False, True]]
    assert data["next", "terminated"].squeeze(-1).tolist() == [[True, True], [False, False]]


def test_a_stateless_environment_continues_from_its_latest_state():
    env = TransformedEnv(PendulumEnv(), ActionChunk(3))
    single = PendulumEnv()
    td = env.reset(set_state=False)
    plain, chunk = td.select("th", "thdot", "params", "done", "terminated"), torch.randn(3, 1)
    reward = 0.0
    for action in chunk.clamp(-2, 2):
        plain = single.step(plain.clone().set("action", action))["next"].set("params", td["params"])
        reward = reward + plain["reward"]
    out = env.step(td.set("action", chunk))["next"]
    torch.testing.assert_close(out["th"], plain["th"])
    torch.testing.assert_close(out["reward"], reward)


def test_rows_that_a_rollout_skips_are_left_alone():
    env = TransformedEnv(CountingEnv([3, 7]), ActionChunk(2))
    data = env.rollout(10, break_when_all_done=True, break_when_any_done=False)
    assert data["next", "observation"][:, -1, 0].tolist() == [3, 7]
    assert torch.isfinite(data["next", "reward"]).all()


def test_value_estimators_discount_by_the_steps_of_a_decision():
    env = TransformedEnv(CountingEnv(LENGTHS), ActionChunk(4, gamma=0.9))
    data = env.rollout(6, break_when_any_done=False)
    value = ValueOperator(nn.Linear(3, 1), in_keys=["observation"])
    gae = GAE(gamma=0.9, lmbda=0.8, value_network=value)
    gae.set_keys(steps_to_next_obs=("next", keys.STEPS))
    out = gae(data.clone())
    v, v_next = value(data.clone())["state_value"], value(data["next"].clone())["state_value"]
    alive, advantage = (~data["next", "done"]).float(), torch.zeros(3, 1)
    for t in reversed(range(6)):
        discount = 0.9 ** data["next", keys.STEPS][:, t]
        delta = data["next", "reward"][:, t] + discount * v_next[:, t] * alive[:, t] - v[:, t]
        advantage = delta + 0.8 * discount * alive[:, t] * advantage
        torch.testing.assert_close(out["advantage"][:, t], advantage)


def test_collected_roots_hold_the_steps_of_their_own_decision():
    env = TransformedEnv(CountingEnv(LENGTHS), ActionChunk(4))
    td = env.reset()
    for _ in range(4):
        out, td = env.step_and_maybe_reset(env.rand_action(td))
        assert torch.equal(out[keys.STEPS], out["next", keys.STEPS])


@pytest.mark.parametrize(
    "options", [{"execute": 0}, {"execute": 2, "offset": -1}, {"execute": 4, "horizon": 3}]
)
def test_a_layout_that_does_not_fit_is_refused(options: dict[str, int]):
    with pytest.raises(ShapeError, match="horizon >= offset"):
        ActionChunk(**options)


def test_a_discount_outside_zero_and_one_is_refused():
    with pytest.raises(ConfigurationError, match=r"discount in \[0, 1\]"):
        ActionChunk(2, gamma=1.1)


def test_a_chunk_of_another_length_is_refused():
    env = TransformedEnv(CountingEnv([3]), ActionChunk(4))
    with pytest.raises(ShapeError, match=r"chunk of shape \(1, 4, 2\)"):
        env.step(env.reset().set("action", torch.zeros(1, 5, 2)))


def test_discrete_and_misshapen_actions_are_refused_on_attaching():
    with pytest.raises(ConfigurationError, match="continuous action"):
        TransformedEnv(GymEnv("CartPole-v1"), ActionChunk(2))
    twice = TransformedEnv(CountingEnv([3]), ActionChunk(2))
    with pytest.raises(ShapeError, match=r"shape \[\*B, A\]"):
        twice.append_transform(ActionChunk(2))
    with pytest.raises(ConfigurationError, match="pass action_key"):
        TransformedEnv(CountingEnv([3]), ActionChunk(2, action_key="motor"))


def test_environments_that_lose_the_terminal_observation_are_refused(
    monkeypatch: pytest.MonkeyPatch,
):
    env = vector_gym(AutoresetMode.SAME_STEP)
    monkeypatch.setattr(env.base_env._env, "autoreset_mode", AutoresetMode.NEXT_STEP)
    with pytest.raises(TerminalObservationError, match="NEXT_STEP does not return it"):
        env.append_transform(ActionChunk(2))


def test_gymnasium_environments_by_number_are_refused():
    env = GymEnv("Pendulum-v1", num_envs=2)
    try:
        with pytest.raises(TerminalObservationError, match="SerialEnv or ParallelEnv"):
            env.append_transform(ActionChunk(2))
    finally:
        env.close()


def test_vector_environments_inside_workers_are_refused():
    env = SerialEnv(2, partial(vector_gym, AutoresetMode.SAME_STEP))
    with pytest.raises(ConfigurationError, match="inside each worker"):
        TransformedEnv(env, ActionChunk(2)).reset()


def test_a_task_of_ours_plays_the_same_alone_and_in_chunks():
    chunked = TransformedEnv(GaussianMixture(16, seed=3), ActionChunk(4))
    single = GaussianMixture(16, seed=3)
    td, plain = chunked.reset(), single.reset()
    assert torch.equal(td["observation"], plain["observation"])
    chunk = torch.randn(chunked.action_spec.shape)
    reward = torch.zeros(16, 1)
    for index in range(4):
        data = TensorDict({"action": chunk[:, index]}, [16])
        plain = single.step(plain.update(data))["next"]
        reward = reward + plain["reward"]
    out = chunked.step(td.set("action", chunk))["next"]
    torch.testing.assert_close(out["observation"], plain["observation"])
    torch.testing.assert_close(out["reward"], reward)


def test_rows_that_promise_to_stay_need_no_mask(monkeypatch: pytest.MonkeyPatch):
    data = {}
    for promise in (True, False):
        monkeypatch.setattr(GaussianMixture, "finished_rows_stay", promise)
        env = TransformedEnv(GaussianMixture(64, seed=3), ActionChunk(5, gamma=0.9))
        torch.manual_seed(4)
        data[promise] = env.rollout(9, break_when_any_done=False)
        assert env.transform._rows_stay == promise
    ends = data[True]["next", "done"] & (data[True]["next", keys.STEPS] < 5)
    assert ends.any()
    for key, value in data[True].items(True, True):
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, data[False][key])


def test_a_single_environment_is_not_taken_for_a_vector_one() -> None:
    """Before Gymnasium 1.3 a vector environment leaves its mode in the metadata of single ones."""

    def make() -> EnvBase:
        env = counting_gym(3)
        env.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        return GymWrapper(env)

    env = TransformedEnv(SerialEnv(2, make), ActionChunk(execute=2))
    assert env.rollout(2)["next", keys.STEPS].flatten().tolist() == [2, 1, 2, 1]


@pytest.mark.parametrize("name", ["batched", "serial", "gymnasium_disabled"])
def test_a_mover_sees_each_step_and_what_it_returns_is_played_clipped(name: str) -> None:
    """Of an environment whose first observation counts; each action is moved by a tenth of that."""
    chunk = ActionChunk(4, gamma=0.9)
    env = TransformedEnv(ENVIRONMENTS[name](), chunk)
    seen: list[tuple[int, torch.Tensor]] = []
    paid: list[torch.Tensor] = []

    def move(state: TensorDict, action: torch.Tensor, index: int) -> torch.Tensor:
        seen.append((index, state["observation"][..., 0].clone()))
        return action + 0.1 * state["observation"][..., :1]

    chunk.set_mover(move, paid.append)
    root = env.reset()
    actions = 0.1 * torch.randn(3, 4, 2)
    after = env.step(root.set("action", actions.clone()))["next"]
    assert [index for index, _ in seen] == [0, 1, 2, 3]
    for step, (_, count) in enumerate(seen):
        assert count.tolist() == [min(step, length) for length in LENGTHS]
    moved = actions + 0.1 * torch.arange(4.0)[:, None]
    alive = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
    executed = after[keys.EXECUTED]
    torch.testing.assert_close(executed[alive], moved.clamp(-0.5, 0.5)[alive])
    assert float(after[keys.CLIPPED].max()) == 0.0, "of the chunk itself nothing was"
    each = (1 + moved.clamp(-0.5, 0.5).sum(-1)) * alive
    torch.testing.assert_close(paid[0], each)
    total = (each * 0.9 ** torch.arange(4)).sum(1, keepdim=True)
    torch.testing.assert_close(after["reward"], total)
    assert torch.equal(root["action"], actions), "the agent keeps its own"

    chunk.set_mover(None)
    assert chunk.mover is None
    plain = env.step(env.reset().set("action", actions.clone()))["next"]
    torch.testing.assert_close(plain[keys.EXECUTED], actions.clamp(-0.5, 0.5))
    assert len(paid) == 1
