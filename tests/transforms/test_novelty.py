"""NoveltyReward: values, every context, sharing with what learns, refusals."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SliceSampler
from torchrl.envs import (
    AutoResetEnv,
    AutoResetTransform,
    Compose,
    EnvBase,
    TransformedEnv,
)

from modereg import keys
from modereg.errors import (
    ConfigurationError,
    KeyMismatchError,
    NonFiniteError,
    ShapeError,
    TerminalObservationError,
)
from modereg.novelty import RandomNetworkDistillation
from modereg.objectives import DistillationLoss
from modereg.testing import CONTEXTS, Context, CountingEnv, check_transform
from modereg.transforms import NoveltyReward

KINDS = ["rnd", "novel_d"]
NOVELTY: NestedKey = ("next", keys.NOVELTY_REWARD)


def distillation(features: int = 3, **options: Any) -> RandomNetworkDistillation:
    rnd = RandomNetworkDistillation.mlp(features, 8, (16,), **options)
    rnd.observe(5 * torch.rand(64, features))
    return rnd


def explored(lengths: Sequence[int] = (6, 9, 13), *transforms: NoveltyReward) -> EnvBase:
    return TransformedEnv(CountingEnv(lengths, start_noise=1.0), Compose(*transforms))


def collected(rnd: RandomNetworkDistillation, steps: int = 6, **options: Any) -> TensorDictBase:
    return seeded(explored((6, 9, 13), NoveltyReward(rnd, **options)), steps)


def seeded(env: EnvBase, steps: int = 6) -> TensorDictBase:
    env.set_seed(0)
    return env.rollout(steps, break_when_any_done=False)


def learn(rnd: RandomNetworkDistillation, data: TensorDictBase, steps: int = 1) -> None:
    loss = DistillationLoss(rnd, observe=False)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(data)["loss_distillation"].backward()
        optimizer.step()


# --- values


def test_rnd_pays_the_novelty_of_the_next_state() -> None:
    rnd = distillation()
    data = collected(rnd)
    assert data[NOVELTY].shape == (3, 6, 1)
    torch.testing.assert_close(data[NOVELTY].squeeze(-1), rnd.novelty(data["next", "observation"]))
    assert set(data["next"].keys()).isdisjoint({keys.EXPLORATION_REWARD, "sum"})


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 3.0])
def test_novel_d_pays_the_step_into_newer_states(alpha: float) -> None:
    rnd = distillation(measure="root")
    data = collected(rnd, kind="novel_d", alpha=alpha)
    after, before = (rnd.novelty(td["observation"]) for td in (data["next"], data))
    expected = (after - alpha * before).clamp_min(0)
    torch.testing.assert_close(data[NOVELTY].squeeze(-1), expected)
    again = NoveltyReward(rnd, "novel_d", alpha=alpha)(data.clone())
    assert (again[NOVELTY] <= NoveltyReward(rnd)(data.clone())[NOVELTY]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_has_its_own_key_and_the_reward_stays(kind: Any) -> None:
    rnd = distillation()
    transform = NoveltyReward(rnd, kind, coef=0.01, total_key=keys.EXPLORATION_REWARD)
    env = explored((3, 7), transform)
    data = env.rollout(5, break_when_any_done=False)["next"]
    expected = data["reward"] + 0.01 * data[keys.NOVELTY_REWARD]
    torch.testing.assert_close(data[keys.EXPLORATION_REWARD], expected)
    assert set(env.full_reward_spec.keys()) == {
        "reward",
        keys.NOVELTY_REWARD,
        keys.EXPLORATION_REWARD,
    }
    transform.coef.fill_(0.0)
    data = env.rollout(5, break_when_any_done=False)["next"]
    assert torch.equal(data[keys.EXPLORATION_REWARD], data["reward"])
    assert [key.rsplit(".")[-1] for key in env.state_dict()] == ["coef"]


def test_rewards_add_up_in_a_chain() -> None:
    rnd = distillation()
    first = NoveltyReward(rnd, coef=0.1, total_key="one")
    names = {"reward_key": "one", "novelty_key": "step", "total_key": "both"}
    env = explored((3, 7), first, NoveltyReward(rnd, "novel_d", coef=0.5, **names))
    data = env.rollout(5, break_when_any_done=False)["next"]
    expected = data["reward"] + 0.1 * data[keys.NOVELTY_REWARD] + 0.5 * data["step"]
    torch.testing.assert_close(data["both"], expected)


def test_nested_keys_and_several_entries() -> None:
    rnd = distillation(4, in_keys=[("agent", "x"), "count"])
    transform = NoveltyReward(
        rnd,
        "novel_d",
        reward_key=("agent", "reward"),
        novelty_key=("agent", "new"),
        total_key=("agent", "sum"),
    )
    state = {"agent": {"x": torch.randn(5, 4, 3)}, "count": torch.arange(20).view(5, 4, 1)}
    after = {"agent": {"x": torch.randn(5, 4, 3)}, "count": 1 + state["count"]}
    data = TensorDict({**state, "next": after}, [5, 4])
    data["next", "agent", "reward"] = torch.randn(5, 4, 1)
    flat = [torch.cat([td["agent", "x"], td["count"]], -1) for td in (data["next"], data)]
    expected = (rnd.novelty(flat[0]) - 0.5 * rnd.novelty(flat[1])).clamp_min(0)[..., None]
    out = transform(data)["next", "agent"]
    torch.testing.assert_close(out["new"], expected)
    torch.testing.assert_close(out["sum"], out["reward"] + expected)


def test_rewards_of_several_agents_share_one_novelty() -> None:
    data = TensorDict({"next": {"observation": torch.randn(5, 3)}}, [5])
    data["next", "reward"] = torch.randn(5, 2, 1)
    out = NoveltyReward(distillation(), total_key="sum")(data)["next"]
    assert out[keys.NOVELTY_REWARD].shape == (5, 1)
    torch.testing.assert_close(out["sum"], out["reward"] + out[keys.NOVELTY_REWARD][:, None])


def test_a_nested_environment_in_double_precision() -> None:
    rnd = distillation(in_keys=[("agent", "x")])
    names = {"observation_key": ("agent", "x"), "reward_key": ("agent", "reward")}

    def make() -> EnvBase:
        return CountingEnv((3, 7, 4), dtype=torch.float64, **names)

    def reward() -> NoveltyReward:
        return NoveltyReward(
            rnd, "novel_d", reward_key=("agent", "reward"), novelty_key=("agent", "new")
        )

    contexts: list[Context] = ["batched", "composed", "serial_inside", "serial_outside"]
    check_transform(reward, make_env=make, contexts=contexts[:2])
    single = {"lengths": 4, "dtype": torch.float64, **names}
    check_transform(reward, make_env=lambda: CountingEnv(**single), contexts=contexts[2:])
    env = TransformedEnv(make(), reward())
    assert env.rollout(3)["next", "agent", "new"].dtype == torch.float64


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_battery(kind: Any, context: Context) -> None:
    rnd = distillation()
    check_transform(
        lambda: NoveltyReward(rnd, kind, total_key=keys.EXPLORATION_REWARD), contexts=[context]
    )


# --- it truly updates


@pytest.mark.parametrize("kind", KINDS)
def test_an_environment_pays_by_the_newest_predictor(kind: Any) -> None:
    rnd = distillation()
    env = explored((6, 9, 13), NoveltyReward(rnd, kind))
    assert not list(env.parameters())
    data, same = seeded(env), seeded(env)
    assert torch.equal(same[NOVELTY], data[NOVELTY])
    learn(rnd, data)
    newer = seeded(env)
    assert torch.equal(newer["next", "observation"], data["next", "observation"])
    assert not torch.isclose(newer[NOVELTY], data[NOVELTY]).all()
    learn(rnd, data, 300)
    learned = seeded(env)
    assert learned[NOVELTY].mean() < 0.1 * data[NOVELTY].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_gets_nothing_and_may_hold_anything(kind: Any) -> None:
    rnd = distillation()
    data = collected(rnd, kind=kind)
    valid = torch.arange(6) < torch.tensor([[6], [4], [1]])
    paid = data[NOVELTY].where(valid.unsqueeze(-1), torch.tensor(0.0))
    data["collector", "mask"] = valid.unsqueeze(-1)
    data["observation"][~valid] = data["next", "observation"][~valid] = torch.nan
    out = NoveltyReward(rnd, kind, total_key=keys.EXPLORATION_REWARD)(data)
    torch.testing.assert_close(out[NOVELTY], paid)
    torch.testing.assert_close(out["next", keys.EXPLORATION_REWARD], data["next", "reward"] + paid)
    learn(rnd, data)


def test_the_moments_of_the_loss_reach_the_environment() -> None:
    rnd = RandomNetworkDistillation.mlp(3, 8, (16,))
    env = explored((6, 9, 13), NoveltyReward(rnd))
    assert not env.transform[0].training  # TorchRL turns it off, and that must not matter
    data = env.rollout(6, break_when_any_done=False)
    assert int(rnd.input_moments.count) == 0  # paying changes nothing
    DistillationLoss(rnd)(data)
    assert int(rnd.input_moments.count) == data.numel()
    torch.testing.assert_close(rnd.input_moments.mean, data["next", "observation"].mean((0, 1)))
    again = NoveltyReward(rnd)(data.clone())
    assert not torch.allclose(again[NOVELTY], data[NOVELTY])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", [None, "slices"])
def test_a_buffer_pays_by_the_newest_predictor_and_leaves_its_storage(
    kind: Any, sampler: str | None
) -> None:
    rnd = distillation()
    data = collected(rnd, kind=kind).reshape(-1)
    slices = None if sampler is None else SliceSampler(slice_len=2, end_key=("next", "done"))
    buffer = ReplayBuffer(storage=LazyTensorStorage(18), batch_size=18, sampler=slices)
    buffer.append_transform(NoveltyReward(rnd, kind))
    buffer.extend(data.clone().set("row", torch.arange(18)))
    sample = buffer.sample()
    torch.testing.assert_close(sample[NOVELTY], data[sample["row"]][NOVELTY])
    learn(rnd, data)
    sample = buffer.sample()
    expected = NoveltyReward(rnd, kind)(sample.clone())[NOVELTY]
    torch.testing.assert_close(sample[NOVELTY], expected)
    assert not torch.isclose(expected, data[sample["row"]][NOVELTY]).all()
    assert torch.equal(buffer.storage.get(torch.arange(18))[NOVELTY], data[NOVELTY])


@pytest.mark.parametrize("backend", ["direct", "process"])
def test_as_postproc_it_pays_by_the_newest_predictor(backend: str) -> None:
    rnd = distillation()
    collector = Collector(
        make_bare_env,
        None,
        backend=backend,
        frames_per_batch=12,
        total_frames=36,
        postproc=NoveltyReward(rnd, "novel_d"),
        **({"num_collectors": 1} if backend == "process" else {}),
    )
    paid = []
    try:
        for data in collector:
            expected = NoveltyReward(rnd, "novel_d")(data.clone())[NOVELTY]
            torch.testing.assert_close(data[NOVELTY], expected)
            paid.append(float(NoveltyReward(rnd)(data)[NOVELTY].mean()))
            learn(rnd, data, 60)
    finally:
        collector.shutdown()
        del collector
        gc.collect()  # what is left to the interpreter's end hangs there: TorchRL's scheme.__del__
    assert len(paid) == 3
    assert paid[2] < 0.5 * paid[0]


def make_bare_env() -> EnvBase:
    return CountingEnv([6, 9, 13], start_noise=1.0)


def test_a_copy_shares_the_distillation_but_not_the_coefficient() -> None:
    env = explored((6, 9, 13), NoveltyReward(distillation()))
    transform = env.transform[0]
    copied = copy.deepcopy(transform)
    assert copied.distillation is transform.distillation
    assert copied.parent is None
    copied.coef.fill_(3.0)
    assert transform.coef.item() == 1.0
    assert transform.clone().distillation is transform.distillation
    assert not list(transform.state_dict().keys() - {"coef"})


def test_pickled_it_pays_the_same() -> None:
    rnd = distillation()
    data = collected(rnd)
    restored = pickle.loads(pickle.dumps(NoveltyReward(rnd)))
    torch.testing.assert_close(restored(data.clone())[NOVELTY], data[NOVELTY])


def test_compiled_it_pays_the_same() -> None:
    rnd = distillation()
    data = collected(rnd)
    compiled = torch.compile(NoveltyReward(rnd), backend="aot_eager")
    torch.testing.assert_close(compiled(data.clone())[NOVELTY], data[NOVELTY])


def test_a_loop_of_collector_buffer_and_loss_runs_and_learns() -> None:
    rnd = RandomNetworkDistillation.mlp(3, 16, (32,))
    env = explored((6, 9, 13), NoveltyReward(rnd, total_key=keys.EXPLORATION_REWARD))
    buffer = ReplayBuffer(storage=LazyTensorStorage(200), batch_size=64)
    buffer.append_transform(NoveltyReward(rnd, total_key=keys.EXPLORATION_REWARD))
    loss = DistillationLoss(rnd, proportion=0.5)
    optimizer = torch.optim.Adam(loss.parameters(), 3e-3)
    collector = Collector(env, None, frames_per_batch=48, total_frames=192)
    novelty = []
    for data in collector:
        buffer.extend(data.reshape(-1))
        for _ in range(40):
            optimizer.zero_grad()
            figures = loss(buffer.sample())
            figures["loss_distillation"].backward()
            optimizer.step()
            novelty.append(float(figures["novelty"]))
        total = data["next", "reward"] + data[NOVELTY]
        torch.testing.assert_close(data["next", keys.EXPLORATION_REWARD], total)
    collector.shutdown()
    assert len(novelty) == 4 * 40
    assert novelty[0] > 0.5  # of root mean square 1
    assert novelty[-1] < 0.1


# --- refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "icm"}, r"kind to be one of \('rnd', 'novel_d'\), got 'icm'"),
        ({"alpha": -0.1}, "non-negative alpha, got -0.1"),
        ({"alpha": float("nan")}, "non-negative alpha, got nan"),
        ({"novelty_key": "reward"}, "never overwritten; rename"),
        ({"total_key": "reward"}, "never overwritten; rename"),
        ({"total_key": keys.NOVELTY_REWARD}, "keys of their own"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        NoveltyReward(distillation(), **options)


@pytest.mark.parametrize("root", [False, True])
def test_features_that_are_not_finite_are_refused(root: bool) -> None:
    data = collected(distillation())
    (data if root else data["next"])["observation"][1, 2, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"'observation'.*fills the observation.*with NaN"):
        NoveltyReward(distillation(), "novel_d")(data)


@pytest.mark.parametrize(
    "key", ["observation", ("next", "observation"), ("next", "reward"), "next"]
)
def test_a_missing_key_is_named(key: NestedKey) -> None:
    data = collected(distillation()).exclude(key)
    name = key if isinstance(key, str) else key[-1]
    with pytest.raises(KeyMismatchError, match=f"reads '{name}'"):
        NoveltyReward(distillation(), "novel_d")(data)


def test_features_of_another_length_are_refused() -> None:
    with pytest.raises(ShapeError, match="expected 4 features, got 3"):
        TransformedEnv(CountingEnv([3]), NoveltyReward(distillation(4))).rollout(2)


def test_an_environment_that_resets_itself_is_refused() -> None:
    env = AutoResetEnv(CountingEnv([3]), AutoResetTransform())
    with pytest.raises(TerminalObservationError, match="auto_reset=True fills it with NaN"):
        TransformedEnv(env, NoveltyReward(distillation()), auto_unwrap=False)
