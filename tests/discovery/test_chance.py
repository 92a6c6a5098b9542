from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modereg.discovery.chance import chance_shares
from modereg.discovery.outcome import OutcomeData, OutcomeModel
from tests.discovery.toys import LAYOUT, SHAPE, chance, episodes, policy

PLAYED = slice(LAYOUT.offset, LAYOUT.offset + LAYOUT.played)


def test_the_share_of_chance_is_what_noise_leaves_open() -> None:
    """Of one decision: the variance of the outcome once its noise is known, over all of it."""
    rows, _, data, model = episodes(6000)
    model.fit(data, 400)

    def chunks() -> Tensor:
        return policy().decode_from(rows, torch.randn(len(rows), *SHAPE))[:, PLAYED]

    def tried() -> Tensor:
        return model.chunk_features(data.observations, chunks())

    found = chance_shares(
        model, data.observations, data.features, tried, data.outcomes, data.episodes
    )
    known = torch.stack([chance(chunks())[:, :2] for _ in range(64)])
    left = (known * (1 - known)).mean((0, 1))
    by_noise = known.var(0).mean(0)
    torch.testing.assert_close(found, left / (left + by_noise), atol=0.05, rtol=0)
    assert bool((0.2 < found).all() and (found < 0.9).all())


@pytest.mark.parametrize("by_noise", [True, False])
def test_what_noise_decides_wholly_is_no_chance_and_what_it_does_not_is(by_noise: bool) -> None:
    """Of two decisions: the first noise says which way it goes, or a coin does in the end."""
    number = 2000
    chunks = torch.randn(number, 2, 1, 1)
    way = chunks[:, 0, 0, 0].sign()
    seen = torch.zeros(number, 2, 2)
    seen[:, 1] = torch.stack([way, torch.ones(number)], -1)
    outcome = (way > 0).long() if by_noise else torch.randint(2, (number,))

    flat, seen = chunks.flatten(0, 1), seen.flatten(0, 1)
    outcomes = outcome.repeat_interleave(2)
    model = OutcomeModel(2, ["observation"], seen, flat, hidden=(32, 32))
    episodes = torch.arange(2 * number) // 2
    features = model.chunk_features(seen, flat)
    base = torch.full_like(outcomes, model.base)
    model.fit(OutcomeData(seen, features, base, outcomes, episodes), 400)

    def tried() -> Tensor:
        return model.chunk_features(seen, torch.randn_like(flat))

    shares = chance_shares(model, seen, features, tried, outcomes, episodes)
    assert bool((shares < 0.15).all()) if by_noise else bool((shares > 0.85).all())
