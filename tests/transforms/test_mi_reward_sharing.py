"""MIReward beside its estimator: in buffers, copies, compiled, and behind other processes."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import TransformedEnv

from modereg import keys
from modereg.estimators import CategoricalMI, RewardEstimator
from modereg.networks import MLP
from modereg.testing import CountingEnv, TinyPolicy
from modereg.transforms import ActionChunk, History, LatentConditioner, MIReward, NoiseAction


def stack(q: RewardEstimator, **options: Any) -> list:
    return [
        ActionChunk(4),
        NoiseAction(TinyPolicy(3, (4, 2))),
        History(length=4),
        LatentConditioner(3),
        MIReward(q, gamma=0.9, **options),
    ]


def steered(q: RewardEstimator, **options: Any) -> TransformedEnv:
    env = TransformedEnv(CountingEnv([6, 9, 13]))
    for transform in stack(q, **options):
        env.append_transform(transform)
    return env


def classifier(dim: int = 15, codes: int = 3) -> CategoricalMI:
    return CategoricalMI(MLP(dim, codes, (16,)), codes, in_keys=["history"])


@pytest.mark.parametrize("timing", ["dense", "difference", "final"])
def test_a_buffer_recomputes_with_the_newest_estimator_and_leaves_the_storage(timing: str):
    q = classifier()
    data = steered(q, timing=timing).rollout(6, break_when_any_done=False).reshape(-1)
    buffer = ReplayBuffer(storage=LazyTensorStorage(18), batch_size=18)
    buffer.append_transform(MIReward(q, timing=timing, gamma=0.9))
    buffer.extend(data)
    stored = buffer.storage.get(torch.arange(18))["next", keys.MI_REWARD].clone()
    torch.testing.assert_close(stored, data["next", keys.MI_REWARD])
    with torch.no_grad():
        for parameter in q.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    sample = buffer.sample()
    expected = MIReward(q, timing=timing, gamma=0.9)(sample.clone())["next", keys.MI_REWARD]
    torch.testing.assert_close(sample["next", keys.MI_REWARD], expected)
    after = buffer.storage.get(torch.arange(18))["next", keys.MI_REWARD]
    assert torch.equal(after, stored)
    assert not torch.allclose(expected.sum(), stored.sum())


def test_the_estimator_is_shared_and_no_submodule():
    q = classifier()
    env = steered(q, timing="dense")
    assert env.transform[-1].estimator is q
    assert not list(env.parameters())
    data = env.rollout(2)
    assert not data["next", keys.MI_REWARD].requires_grad


def test_a_copy_shares_the_estimator_but_not_the_coefficient():
    env = steered(classifier(), timing="dense")
    copied = copy.deepcopy(env.transform[-1])
    assert copied.estimator is env.transform[-1].estimator
    assert copied.parent is None
    copied.coef.fill_(3.0)
    assert env.transform[-1].coef.item() == 1.0


def test_permuting_the_codes_changes_nothing():
    q = classifier()
    data = steered(q, timing="difference").rollout(6, break_when_any_done=False)
    order = torch.tensor([2, 0, 1])
    last = q.network.module.layers[-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[order.argsort()])
        last.bias.copy_(last.bias[order.argsort()])
    renamed = data.clone().set("latent", order[data["latent"]])
    out = MIReward(q, timing="difference", gamma=0.9)(renamed)
    torch.testing.assert_close(out["next", keys.MI_REWARD], data["next", keys.MI_REWARD])


@pytest.mark.parametrize("timing", ["dense", "difference"])
def test_compiled_it_pays_the_same(timing: str):
    transform = MIReward(classifier(), timing=timing, gamma=0.9)
    env = steered(classifier(), timing="dense")
    data = env.rollout(3, break_when_any_done=False).exclude(("next", keys.MI_REWARD))
    expected = transform(data.clone())["next", keys.MI_REWARD]
    compiled = torch.compile(transform, backend="aot_eager")
    torch.testing.assert_close(compiled(data.clone())["next", keys.MI_REWARD], expected)


def test_the_compiled_steering_policy_draws_the_same_noise():
    env = steered(classifier(), timing="dense")
    policy = env.transform[-2].steer(["observation"], 3, (4, 2), hidden=(8,))
    data = env.reset().select("observation", "latent_features")
    compiled = torch.compile(policy, backend="aot_eager")
    torch.manual_seed(1)
    expected = policy(data.clone())
    torch.manual_seed(1)
    out = compiled(data.clone())
    torch.testing.assert_close(out["loc"], expected["loc"])
    torch.testing.assert_close(out["scale"], expected["scale"])
    assert out["action"].shape == (3, 4, 2)


def make_worker_env() -> TransformedEnv:
    env = TransformedEnv(CountingEnv([6, 9, 13]))
    for transform in stack(classifier(), timing="dense")[:-1]:
        env.append_transform(transform)
    return env


class RandomNoise(TensorDictModuleBase):
    """Acts as the base policy does."""

    in_keys, out_keys = ["observation"], ["action"]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.set("action", torch.randn(*tensordict.batch_size, 4, 2))


def test_as_postproc_of_a_collector_of_processes_the_estimator_stays_with_the_learner():
    from torchrl.collectors import Collector

    q = classifier()
    collector = Collector(
        make_worker_env,
        RandomNoise(),
        backend="process",
        num_collectors=1,
        frames_per_batch=12,
        total_frames=24,
        postproc=MIReward(q, timing="difference", gamma=0.9),
    )
    try:
        for data in collector:
            expected = MIReward(q, timing="difference", gamma=0.9)(data.clone())
            for key in (keys.MI_REWARD, keys.REGULARIZED_REWARD):
                torch.testing.assert_close(data["next", key], expected["next", key])
            with torch.no_grad():
                q.network.module.layers[-1].bias.add_(torch.randn(3))
    finally:
        collector.shutdown()
        del collector
        gc.collect()  # what is left to the interpreter's end hangs there: TorchRL's scheme.__del__


def test_what_is_copied_after_a_transform_is_a_copy():
    q = classifier()
    reward = MIReward(q, timing="dense", gamma=0.9)
    shared, copied = copy.deepcopy((reward, q))
    assert shared.estimator is q
    assert copied is not q
    copied, together = copy.deepcopy((q, reward))
    assert together.estimator is copied is not q
