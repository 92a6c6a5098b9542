from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from modereg import keys, plugins
from modereg.ddiffpg.actor import ActionBox, Change, Commanded, ModeActor
from modereg.errors import ConfigurationError, ShapeError
from modereg.testing import TinyPolicy


def _actor(**options: float) -> ModeActor:
    torch.manual_seed(0)
    policy = plugins.policy_loader("diffusers").untrained(
        observation_shapes={keys.OBSERVATION: (2,), keys.MODE_EMBEDDING: (3,)},
        chunk_shape=(2, 2),
        hidden=(64, 64),
        num_train_timesteps=30,
        num_inference_steps=3,
    )
    box = ActionBox(torch.tensor([-0.1, -2.0]), torch.tensor([0.3, 2.0]), 2)
    policy.fit_normalizer(
        torch.stack([box.low, box.high])[:, None].expand(2, 2, -1),
        torch.tensor([[-1.0] * 2, [1.0] * 2]),
        torch.tensor([[-1.0] * 3, [1.0] * 3]),
    )
    return ModeActor(policy, box, **options)


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 3))
def test_a_box_maps_its_bounds_to_one_and_back(seed: int, horizon: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(size, generator=generator)
    box = ActionBox(low, low + 0.1 + torch.rand(size, generator=generator), horizon)
    flat = 2 * torch.rand(5, box.size, generator=generator) - 1
    chunk = box.chunk(flat)
    assert chunk.shape == (5, horizon, size)
    assert bool(((chunk >= box.low - 1e-5) & (chunk <= box.high + 1e-5)).all())
    torch.testing.assert_close(box.flat(chunk), flat, atol=1e-4, rtol=0)
    assert float(box.flat(chunk + 100.0).amin()) == 1.0


def test_embeddings_command_and_without_them_both_are_shown() -> None:
    """Taught one action by each of two embeddings, with a third of them dropped."""
    actor = _actor(ema=0.9)
    told = torch.eye(3)[:2].repeat(64, 1) * 3**0.5
    targets = torch.where(told[:, :1] > 0, 0.8, -0.8).expand(-1, 4).contiguous()
    observations = TensorDict({keys.OBSERVATION: torch.zeros(128, 2)}, [128])
    free = torch.ones(128, dtype=torch.bool)
    optimizer = torch.optim.Adam(actor.policy.parameters(), 3e-3)
    for _ in range(200):
        loss = actor.loss(targets, observations, told, free)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        actor.average()
    played = actor.act(observations, told)
    assert float(((played - targets).abs().amax(-1) < 0.3).float().mean()) > 0.9
    loose = actor.act(observations, torch.zeros_like(told)).mean(-1)
    assert 0.2 < float((loose > 0.5).float().mean()) < 0.8
    assert 0.2 < float((loose < -0.5).float().mean()) < 0.8


def test_no_embedding_is_dropped_where_rows_are_not_free() -> None:
    actor = _actor(dropout=0.9)
    seen: list[torch.Tensor] = []
    actor.policy.cloning_loss = lambda chunk, *values: seen.append(values[-1]) or chunk.sum()
    told, observed = torch.ones(200, 3), TensorDict({keys.OBSERVATION: torch.zeros(200, 2)}, [200])
    free = torch.arange(200) % 2 == 0
    actor.loss(torch.zeros(200, 4), observed, told, free)
    dropped = (seen[0] == 0).all(-1)
    assert not bool(dropped[~free].any())
    assert 0.8 < float(dropped[free].float().mean()) < 1.0


def test_the_average_acts_and_follows() -> None:
    actor = _actor(ema=0.5)
    actor.average()
    before = actor.acting.denoiser.output_layer.weight.clone()
    actor.policy.denoiser.output_layer.weight.data += 1.0
    actor.average()
    torch.testing.assert_close(actor.acting.denoiser.output_layer.weight, before + 0.5)


class _Telling(ModeActor):
    """Plays what it is told."""

    def act(self, observations: TensorDict, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings[:, :1].expand(-1, 4).clone()


def test_a_command_changes_when_it_is_to_and_noise_drifts_all_episode() -> None:
    made = _actor()
    actor = _Telling(made.policy, made.box)
    first, later = torch.zeros(3, 3), torch.full((3, 3), 0.5)
    policy = Commanded(actor, first, change=Change(later, torch.tensor([1, 2, 9])))
    played = [made.box.flat(policy(TensorDict({}, [3]))[keys.ACTION])[:, 0] for _ in range(3)]
    expected = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0.5, 0.5, 0]])
    torch.testing.assert_close(torch.stack(played), expected, atol=1e-5, rtol=0)

    torch.manual_seed(1)
    shaken = Commanded(actor, torch.zeros(500, 3), torch.full((500,), 0.2))
    turns = [made.box.flat(shaken(TensorDict({}, [500]))[keys.ACTION]) for _ in range(2)]
    both = torch.stack([turn[:, 0] for turn in turns])
    assert float(torch.corrcoef(both)[0, 1]) > 0.6


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="finite bounds"):
        ActionBox(torch.tensor([-1.0]), torch.tensor([float("inf")]), 2)
    made = _actor()
    with pytest.raises(ConfigurationError, match="reads 'mode_embedding' last"):
        ModeActor(TinyPolicy(2), made.box)
    with pytest.raises(ConfigurationError, match="nothing commands"):
        ModeActor(made.policy, made.box, dropout=1.0)
    with pytest.raises(ShapeError, match=r"targets \[n, 4\]"):
        made.loss(torch.zeros(2, 3), TensorDict({}, [2]), torch.zeros(2, 3), torch.ones(2).bool())
