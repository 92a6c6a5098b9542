from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict

from modereg.discovery.outcome import OutcomeData, OutcomeModel
from modereg.errors import KeyMismatchError
from tests.discovery import toys


def unpredictable(num_episodes: int, decisions: int) -> tuple[OutcomeModel, OutcomeData]:
    """Return episodes of equal decisions each, whose outcome is a coin's."""
    observations = torch.randn(num_episodes, 2).repeat_interleave(decisions, 0)
    chunks = torch.randn(num_episodes, 3, 2).repeat_interleave(decisions, 0)
    model = OutcomeModel(1, ["observation"], observations, chunks, hidden=(64, 64))
    outcomes = torch.randint(2, (num_episodes,)).repeat_interleave(decisions)
    data = OutcomeData(
        observations,
        model.chunk_features(observations, chunks),
        torch.ones_like(outcomes),
        outcomes,
        torch.arange(num_episodes).repeat_interleave(decisions),
    )
    return model, data


def test_it_recovers_a_known_conditional() -> None:
    _, _, data, model = toys.episodes(6000)
    figures = model.fit(data, 400)
    rows, noise, fresh, _ = toys.episodes(1000)
    chunks = toys.policy().decode_from(rows, noise)[:, 1:4]
    features = model.chunk_features(fresh.observations, chunks)
    found = model.log_prob(fresh.observations, features, fresh.players).exp().mean(0)
    expected = toys.chance(chunks)
    assert float((found - expected).abs().mean()) < 0.05
    truth = -torch.special.xlogy(expected, expected).sum(-1).mean()
    assert figures["outcome_nll"] == pytest.approx(float(truth), abs=0.06)


def test_class_shares_are_what_knows_no_observation() -> None:
    _, _, data, model = toys.episodes(3000)
    expected = 2 * 0.4 * math.log(1 / 0.4) + 0.2 * math.log(1 / 0.2)
    assert model.fit(data, 2)["class_share_nll"] == pytest.approx(expected, abs=0.04)


def test_whole_episodes_are_held_out() -> None:
    """Whoever has seen one decision of an episode here knows what the others lead to."""
    model, data = unpredictable(100, 20)
    assert model.fit(data, 300)["outcome_nll"] > 0.6


def test_members_keep_the_weights_that_were_best_held_out() -> None:
    """At the end they have learned every coin by heart, and are sure of what they do not know."""
    model, data = unpredictable(60, 4)
    figures = model.fit(data, 150)
    assert figures["outcome_nll"] < figures["class_share_nll"] + 0.15


def test_who_plays_on_matters() -> None:
    """The base leads to either code as chance has it, and code 1 to itself whatever was played."""
    _, _, data, model = toys.episodes(3000)
    commanded = torch.rand(3000) < 0.5
    data.players[commanded], data.outcomes[commanded] = 1, 1
    model.fit(data, 300)
    rows = slice(0, 300)
    by = {
        player: model.log_prob(
            data.observations[rows], data.features[rows], torch.full((300,), player)
        )
        .exp()
        .mean(0)[:, 1]
        for player in (1, model.base)
    }
    assert float(by[1].min()) > 0.9
    assert float(by[model.base].mean()) == pytest.approx(toys.LUCK / 2, abs=0.08)


def test_probabilities_add_up_and_members_differ() -> None:
    _, _, data, model = toys.episodes(200)
    log_prob = model.log_prob(data.observations, data.features, data.players)
    assert log_prob.shape == (3, 200, 3)
    torch.testing.assert_close(log_prob.exp().sum(-1), torch.ones(3, 200))
    assert not torch.allclose(log_prob[0], log_prob[1])


def test_after_a_fit_gradients_reach_the_chunk_and_no_weight() -> None:
    _, _, data, model = toys.episodes(500)
    model.fit(data, 5)
    features = data.features[:8].clone().requires_grad_()
    model.log_prob(data.observations[:8], features, data.players[:8])[:, :, 1].sum().backward()
    assert features.grad is not None
    assert bool((features.grad != 0).any())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_observations_are_read_side_by_side_in_single_precision() -> None:
    _, _, _, model = toys.episodes(50)
    model.observation_keys = ["observation", ("goal", "place")]
    rows = TensorDict(
        {"observation": torch.ones(3, 2), "goal": {"place": torch.full((3, 2, 2), 2.0).double()}},
        [3],
    )
    assert model.observe(rows).tolist() == [[1, 1, 2, 2, 2, 2]] * 3
    assert model.observe(rows).dtype == torch.float32
    with pytest.raises(KeyMismatchError, match="the outcome model reads 'observation'"):
        model.observe(rows.exclude("observation"))
