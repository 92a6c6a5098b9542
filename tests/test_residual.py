"""The residuals on chunks and on steps: what they add, to what, and how far."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from modereg import keys
from modereg.discovery.chunk_features import ChunkFeatures
from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.residual import ChunkResidual, StepResidual

CODES, PLAYED, WIDTH, OFFSET, HORIZON = 3, 4, 2, 1, 6


def chunks(number: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    observed = torch.randn(number, 2)
    common = torch.randn(number, 1, WIDTH) * torch.tensor([1.0, 0.1])
    return observed, common + 0.05 * torch.randn(number, PLAYED, WIDTH) + observed[:, None]


def residual(directions: torch.Tensor | None = None, bound: float = 3.0) -> ChunkResidual:
    if directions is None:
        directions = ChunkFeatures(*chunks()).directions
    return ChunkResidual.at_zero(
        [keys.OBSERVATION], 2, CODES, directions, bound=bound, offset=OFFSET, hidden=(8,)
    )


def rows(code: int = 0, number: int = 5) -> TensorDict:
    one_hot = torch.eye(CODES)[code].expand(number, -1)
    seen = {keys.OBSERVATION: torch.randn(number, 2), keys.LATENT_FEATURES: one_hot}
    return TensorDict(seen, [number])


def test_at_first_it_moves_nothing() -> None:
    chunk = torch.randn(5, HORIZON, WIDTH)
    assert torch.equal(residual()(rows(), chunk), chunk)


def test_it_moves_what_is_played_and_the_features_by_exactly_as_much() -> None:
    features = ChunkFeatures(*chunks())
    moving, seen = residual(features.directions), rows()
    torch.nn.init.normal_(moving.network.head.network.layers[-1].weight, std=2.0)
    with torch.no_grad():
        chunk = torch.randn(5, HORIZON, WIDTH)
        before = chunk.clone()
        moved, move = moving(seen, chunk), moving.shift(seen)
    assert torch.equal(chunk, before)
    end = OFFSET + PLAYED
    assert torch.equal(moved[:, :OFFSET], chunk[:, :OFFSET])
    assert torch.equal(moved[:, end:], chunk[:, end:])
    assert float(move.abs().max()) > 0.5
    observed = seen[keys.OBSERVATION]
    old, new = (features(observed, each[:, OFFSET:end]) for each in (chunk, moved))
    torch.testing.assert_close(new - old, move, rtol=1e-3, atol=1e-4)


def test_a_step_of_one_is_as_long_as_the_bases_own_chunks_spread() -> None:
    observed, played = chunks()
    features = ChunkFeatures(observed, played, share=1.0)
    flat = (played - observed[:, None]).flatten(1)
    length = features.directions.square().sum(0).sqrt()
    torch.testing.assert_close(length, flat.std(0), rtol=0.05, atol=0.0)


def test_it_is_bounded_and_of_the_codes_that_are_steered_alone() -> None:
    moving = residual(bound=1.5)
    with torch.no_grad():
        moving.network.head.network.layers[-1].bias.fill_(100.0)
        moving.network.head.steer_only(torch.tensor([True, False, True]), 1.0)
        length = moving.shift(rows(0)).norm(dim=-1)
        assert 1.0 < float(length.min()) <= float(length.max()) < 1.5
        assert torch.equal(moving.shift(rows(1)), torch.zeros(5, len(moving.directions)))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least 5 actions, of which 1 to 4 are moved"):
        residual()(rows(), torch.zeros(5, 4, WIDTH))
    with pytest.raises(KeyMismatchError, match=keys.LATENT_FEATURES):
        residual()(rows().exclude(keys.LATENT_FEATURES), torch.zeros(5, HORIZON, WIDTH))
    with pytest.raises(ShapeError, match=r"with k of \(3,\), got \(2, 4\)"):
        ChunkResidual(residual(torch.eye(3, 8)).network, torch.eye(2, 4), 1.0)
    with pytest.raises(ConfigurationError, match=r"a bound above 0 and finite, got 0"):
        residual(bound=0.0)


def test_a_residual_of_steps_sees_the_bases_action_and_is_bounded() -> None:
    torch.manual_seed(0)
    scale, bound = torch.tensor([0.5, 2.0]), 0.3
    read = [keys.OBSERVATION, keys.BASE_ACTION]
    made = StepResidual.at_zero(read, 5, 2, torch.diag(scale), bound=bound, hidden=(8,))
    state = TensorDict(
        {keys.OBSERVATION: torch.randn(50, 3), keys.LATENT_FEATURES: torch.eye(2)[[0, 1] * 25]},
        [50],
    )
    action = torch.randn(50, 2)
    assert torch.equal(made.move(state, action), action), "it begins at the base"
    nn.init.normal_(made.network.head.network.layers[-1].weight, std=3.0)
    moved = made.move(state, action)
    length = ((moved - action) / scale).norm(dim=-1)
    assert 0.9 * bound < float(length.max()) <= bound * (1 + 1e-5)
    other = made.move(state, action + 1.0) - action - 1.0
    assert float((other - moved + action).abs().max()) > 0.01, "by what the base does"
    flipped = state.clone().set(keys.LATENT_FEATURES, 1.0 - state[keys.LATENT_FEATURES])
    assert float((made.move(flipped, action) - moved).abs().max()) > 0.01, "by the code"
    assert keys.BASE_ACTION not in state
    with pytest.raises(KeyMismatchError, match="reads 'observation'"):
        made.move(state.exclude(keys.OBSERVATION), action)
