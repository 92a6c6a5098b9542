"""Codes in a denoiser: the base's at first, each row its own, and one of them as plain weights."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.policies import embed_codes
from tests.policies.made import SHAPE, Velocity, changed, data, flow

CODES = torch.tensor([0, 1, 2, 2, 1, 0])


def _rows() -> TensorDict:
    return data(6).set(keys.LATENT_FEATURES, torch.eye(3)[CODES])


class Mixing(Velocity):
    """One whose layers see the rows of a batch in another order than its own."""

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        return super().forward(x.flip(0), t.flip(0), observation.flip(0)).flip(0)


class Plain(nn.Module):
    """One without any layer that has a bias."""

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        return -x


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("steps", [None, 2])
def test_codes_shift_their_own_rows_and_each_is_a_plain_policy(
    steps: int | None, rank: int | None
) -> None:
    base, rows, noise = flow(), _rows(), torch.randn(6, *SHAPE)
    chain = embed_codes(base, 3, data(1), steps=steps, rank=rank)
    begun = base.decode_from(rows, noise)
    torch.testing.assert_close(chain.decode_from(rows, noise), begun, rtol=1e-6, atol=1e-6)
    if steps is None:
        assert torch.equal(chain.decode_from(rows, noise), begun)
    changed(chain)
    played = chain.decode_from(rows, noise)
    for code in range(3):
        alone = chain.fixed(code)
        assert alone.observation_keys == base.observation_keys
        away = (alone.decode_from(rows, noise) - played).abs().amax((1, 2))
        assert bool((away[code == CODES] < 1e-5).all())
        assert bool((away[code != CODES] > 0.05).all())
    drawn = chain.sample(noise, rows["observation"], rows[keys.LATENT_FEATURES])
    means = chain.means(drawn.chain, rows["observation"], rows[keys.LATENT_FEATURES])
    torch.testing.assert_close(chain.log_prob(drawn.chain, means), drawn.log_prob)
    for again in (copy.deepcopy(chain), chain.weights().chain(base)):
        assert torch.equal(again.decode_from(rows, noise), played)


@pytest.mark.parametrize(
    ("velocity", "sentence"),
    [(Mixing(), "keeps the rows of a batch apart"), (Plain(), "layers or convolutions")],
)
def test_denoisers_that_cannot_be_told_codes_are_refused(
    velocity: nn.Module, sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        embed_codes(flow(velocity=velocity), 3, data(1))
