from __future__ import annotations

import pytest
import torch

from modereg.discovery.chunk_features import ChunkFeatures

ROWS, ACTIONS, DIMS = 4000, 4, 2


def made(spread: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return observations, chunks that they decide but for a few hidden causes, and these."""
    observations = torch.randn(ROWS, 3)
    causes = torch.randn(ROWS, len(spread))
    mixing = torch.linalg.qr(torch.randn(ACTIONS * DIMS, len(spread)))[0]
    linear = torch.randn(3, ACTIONS * DIMS)
    flat = 5 + observations @ linear + (causes * torch.tensor(spread)) @ mixing.mT
    return observations, flat.unflatten(1, (ACTIONS, DIMS)), causes


def explained(target: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Return the share of each target's variance that is linear in the inputs."""
    solution = torch.linalg.lstsq(inputs, target).solution
    return 1 - (target - inputs @ solution).var(0) / target.var(0)


def test_features_are_the_hidden_causes_and_nothing_of_the_observation() -> None:
    observations, chunks, causes = made((1.0, 0.8))
    features = ChunkFeatures(observations, chunks)
    values = features(observations, chunks)
    assert values.shape == (ROWS, features.out_features) == (ROWS, 2)
    assert bool((explained(causes, values) > 0.999).all())
    assert bool((explained(values, observations) < 0.01).all())


def test_features_are_white() -> None:
    observations, chunks, _ = made((3.0, 1.0, 0.3))
    values = ChunkFeatures(observations, chunks)(observations, chunks)
    torch.testing.assert_close(values.T.cov(), torch.eye(3), atol=0.02, rtol=0)


@pytest.mark.parametrize(("share", "most", "kept"), [(0.2, 16, 1), (0.999, 16, 3), (1.0, 2, 2)])
def test_the_share_of_the_variance_and_the_limit_say_how_many(
    share: float, most: int, kept: int
) -> None:
    observations, chunks, _ = made((1.0, 1.0, 1.0))
    assert ChunkFeatures(observations, chunks, share=share, most=most).out_features == kept


def test_units_of_actions_and_observations_do_not_matter() -> None:
    observations, chunks, causes = made((1.0, 1.0))
    scaled = chunks * torch.tensor([1000.0, 0.01])
    values = ChunkFeatures(1e4 * observations + 7, scaled)(1e4 * observations + 7, scaled)
    assert bool((explained(causes, values) > 0.99).all())


def test_a_chunk_that_its_observation_decides_has_small_features_everywhere() -> None:
    observations, chunks, _ = made((0.0,))
    values = ChunkFeatures(observations, chunks)(observations, chunks)
    assert bool(values.isfinite().all())


def test_features_take_any_batch() -> None:
    observations, chunks, _ = made((1.0, 0.5))
    features = ChunkFeatures(observations, chunks)
    flat = features(observations[:12], chunks[:12])
    nested = features(observations[:12].view(3, 4, -1), chunks[:12].view(3, 4, ACTIONS, DIMS))
    torch.testing.assert_close(nested.flatten(0, 1), flat)
