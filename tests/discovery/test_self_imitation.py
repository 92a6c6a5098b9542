"""Refinements by the noises of hits: what is fitted, and to which codes."""

from __future__ import annotations

import pytest
import torch

from modereg import keys
from modereg.discovery import ClusterModeDiscoverer
from tests.discovery.places import BASE, NOISES, codes_of, drawn, episodes_to, stage_of


def test_it_begins_with_the_noises_of_the_clusters(placed: ClusterModeDiscoverer) -> None:
    stage = stage_of(placed, imitation_steps=200)
    row = stage.begin(episodes_to(placed, BASE, [0] * 600))  # whatever was commanded
    means, _ = drawn(stage.steering)
    assert set(row) == {"nll"}
    assert float((means[codes_of(placed)] - NOISES).abs().max()) < 0.25
    assert stage.chance is not None
    torch.testing.assert_close(stage.chance, torch.full((3,), 1 / 3))
    features = stage.steering.head.network.features
    assert float(features.shift[0]) == pytest.approx(0.5, abs=0.1)  # of rand, not of nothing


def test_a_code_that_did_not_learn_keeps_the_noise_of_the_base(
    placed: ClusterModeDiscoverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code 2 always ends in place 0: narrowed noise there would lose a mode."""
    stage, order = stage_of(placed, refine_steps=150), codes_of(placed)
    stage.compare_with(episodes_to(placed, BASE, BASE))
    rolled = episodes_to(placed, [0] * 200 + [1] * 200 + [0] * 200, BASE)
    monkeypatch.setattr(stage, "roll_out", lambda *_: rolled)
    row, _ = stage.refine(None, 600, std=0.7, next_std=0.4)
    means, stds = drawn(stage.steering)
    assert "nll" in row
    assert torch.allclose(stds[order], torch.tensor([[0.4], [0.4], [1.0]]).expand(3, 2))
    assert float((means[order][:2] - NOISES[:2]).abs().max()) < 0.25
    assert float(means[order][2].abs().max()) < 0.25
    assert stage.best["hits"] == row["hits"] == pytest.approx(2 / 3)


def test_without_a_hit_nothing_is_fitted(
    placed: ClusterModeDiscoverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of(placed, refine_steps=5)
    stage.compare_with(episodes_to(placed, BASE, BASE))
    rolled = episodes_to(placed, BASE[200:] + BASE[:200], BASE)
    monkeypatch.setattr(stage, "roll_out", lambda *_: rolled)
    row, _ = stage.refine(None, 600, std=0.7, next_std=0.4)
    assert "nll" not in row
    means, stds = drawn(stage.steering)
    assert torch.equal(means, torch.zeros(3, 2))
    assert torch.equal(stds, torch.ones(3, 2))


def test_the_last_three_rounds_of_hits_are_fitted_and_kept(
    placed: ClusterModeDiscoverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of(placed, refine_steps=1)
    stage.compare_with(episodes_to(placed, BASE, BASE))
    for size in (100, 90, 80, 70):
        rolled = episodes_to(placed, BASE[:size], BASE[:size])
        monkeypatch.setattr(stage, "roll_out", lambda *_, rolled=rolled: rolled)
        stage.refine(None, size, std=0.7, next_std=0.4)
    assert [len(part) for part in stage.rounds] == [180, 160, 140]
    other = stage_of(placed, refine_steps=1)
    other.load_state_dict(stage.state_dict())
    for ours, theirs in zip(other.rounds, stage.rounds, strict=True):
        assert torch.equal(ours[keys.ACTION], theirs[keys.ACTION])
        assert torch.equal(ours[keys.LATENT], theirs[keys.LATENT])
