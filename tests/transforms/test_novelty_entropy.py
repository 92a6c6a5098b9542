"""ParticleEntropyReward: the entropy of batches in buffers and collectors, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import Compose, TransformedEnv

from modereg import keys
from modereg.errors import ConfigurationError, KeyMismatchError, NonFiniteError
from modereg.information import particle_entropy
from modereg.testing import CountingEnv
from modereg.transforms import ParticleEntropyReward


def visited(*size: int, features: int = 3) -> TensorDict:
    data = TensorDict({"next": {"observation": torch.randn(*size, features)}}, size)
    return data.set(("next", "reward"), torch.randn(*size, 1))


@pytest.mark.parametrize("size", [(40,), (8, 5)])
def test_the_entropy_is_that_of_the_batch(size: tuple[int, ...]) -> None:
    data = visited(*size)
    out = ParticleEntropyReward(k=3, total_key="sum", coef=0.5, chunk_size=7)(data)["next"]
    x = data["next", "observation"].reshape(-1, 3)
    distances = torch.cdist(x, x).sort(-1).values[:, 1:4]
    expected = distances.mean(-1).log1p().view(*size, 1)
    torch.testing.assert_close(out[keys.ENTROPY_REWARD], expected)
    torch.testing.assert_close(out["sum"], out["reward"] + 0.5 * expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_entropy_of_nested_entries(dtype: torch.dtype) -> None:
    data = visited(20, features=2).to(dtype)
    moved = TensorDict({"next": {"agent": {"count": torch.arange(20)}}}, [20])
    moved["next", "agent", "x"] = data["next", "observation"]
    moved["next", "agent", "reward"] = data["next", "reward"]
    transform = ParticleEntropyReward(
        [("agent", "x"), ("agent", "count")],
        k=2,
        reward_key=("agent", "reward"),
        entropy_key=("agent", "entropy"),
    )
    x = torch.cat([moved["next", "agent", "x"], torch.arange(20)[:, None]], -1)
    out = transform(moved)["next", "agent", "entropy"]
    assert out.dtype == dtype
    torch.testing.assert_close(out.squeeze(-1), particle_entropy(x, k=2))


def test_whole_numbers_have_an_entropy() -> None:
    data = visited(20)
    data["next", "observation"] = torch.arange(20)[:, None] * 2
    out = ParticleEntropyReward(k=1)(data)["next", keys.ENTROPY_REWARD]
    torch.testing.assert_close(out, torch.full((20, 1), 3.0).log())


def test_a_buffer_pays_the_lonely_more() -> None:
    data = visited(64)
    data["next", "observation"][:4] *= 20
    buffer = ReplayBuffer(storage=LazyTensorStorage(64), batch_size=64)
    buffer.append_transform(ParticleEntropyReward(k=5))
    buffer.extend(data)
    sample = buffer.sample()
    paid, size = (
        sample["next", keys.ENTROPY_REWARD].flatten(),
        sample["next", "observation"].norm(dim=-1),
    )
    expected = particle_entropy(sample["next", "observation"], k=5)
    torch.testing.assert_close(paid, expected)
    assert paid[size > 15].mean() > 2 * paid[size < 5].mean()
    stored = buffer.storage.get(torch.arange(64))["next"]
    assert set(stored.keys()) == {"observation", "reward"}


def test_as_postproc_it_takes_what_was_just_collected() -> None:
    env = TransformedEnv(CountingEnv([6, 9, 13], start_noise=1.0))
    collector = Collector(
        env, None, frames_per_batch=24, total_frames=48, postproc=ParticleEntropyReward(k=4)
    )
    for data in collector:
        x = data["next", "observation"].reshape(-1, 3)
        expected = particle_entropy(x, k=4).view(*data.batch_size, 1)
        torch.testing.assert_close(data["next", keys.ENTROPY_REWARD], expected)
    collector.shutdown()


def test_rows_that_do_not_count_are_nobodys_neighbour() -> None:
    data = visited(4, 5)
    mask = torch.rand(4, 5) < 0.6
    masked = data.clone().set(("collector", "mask"), mask)
    masked["next", "observation"][~mask] = torch.nan
    out = ParticleEntropyReward(k=2)(masked)["next", keys.ENTROPY_REWARD].squeeze(-1)
    torch.testing.assert_close(out[mask], particle_entropy(data["next", "observation"][mask], k=2))
    assert not out[~mask].any()


@pytest.mark.parametrize("composed", [False, True])
def test_the_entropy_is_refused_by_an_environment(composed: bool) -> None:
    transform = ParticleEntropyReward()
    chain = Compose(transform) if composed else transform
    with pytest.raises(ConfigurationError, match="in a replay buffer or as a collector's postproc"):
        TransformedEnv(CountingEnv([6, 9, 13], start_noise=1.0), chain)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "positive k, got 0"),
        ({"chunk_size": 0}, "positive chunk_size, got 0"),
        ({"in_keys": []}, "at least one key"),
        ({"in_keys": "observation"}, "at least one key, got 'observation'"),
        ({"entropy_key": "reward"}, "never overwritten"),
    ],
)
def test_entropies_that_cannot_work_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        ParticleEntropyReward(**options)


def test_a_batch_of_few_rows_has_no_entropy() -> None:
    with pytest.raises(ConfigurationError, match="k = 12"):
        ParticleEntropyReward()(visited(12))


def test_bad_data_are_refused() -> None:
    data = visited(8)
    with pytest.raises(KeyMismatchError, match="ParticleEntropyReward.*reads 'other'"):
        ParticleEntropyReward(["other"], k=1)(data)
    data["next", "observation"][3, 1] = torch.inf
    with pytest.raises(NonFiniteError, match="'observation'"):
        ParticleEntropyReward(k=1)(data)
