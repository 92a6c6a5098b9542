"""Codes of any kind in the benchmark of stage 1: cells, fixed codes, and how they are judged."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from benchmarks.support.codes import Cells, fixed_codes, judge_codes
from modereg import functional, keys
from modereg.priors import CategoricalPrior, NormalPrior, Prior, SphericalPrior
from modereg.recipes.config import TaskConfig
from modereg.recipes.setup import Setup, set_up

PRIORS = [NormalPrior(3), SphericalPrior(3)]


@pytest.fixture
def setup() -> Setup:
    task = TaskConfig("task:gaussian_mixture", num_envs=16)
    return set_up(task, "tests.recipes.tiny:policy")


def centres(cells: Cells, num: int) -> Tensor:
    return torch.stack([cells.draw(torch.full((200,), cell)).mean(0) for cell in range(num)])


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_cells_share_the_space_about_evenly_and_keep_to_themselves(prior: Prior) -> None:
    cells = Cells(prior, 12, seed=0)
    shares = cells.counts / cells.counts.sum()
    assert shares.min() > 0.02
    assert shares.max() < 0.2
    middle = centres(cells, 12)
    drawn = torch.arange(12).repeat(20)
    nearest = functional.nearest_centroid(cells.draw(drawn), middle)
    assert (nearest == drawn).float().mean() > 0.9  # k-means' anchors, up to its tolerance


def test_the_seed_alone_decides_the_cells() -> None:
    """Whatever was drawn before; and the generators are left as they were."""
    before = torch.get_rng_state()
    first = Cells(NormalPrior(2), 4, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first.bank, Cells(NormalPrior(2), 4, seed=5).bank)
    assert not torch.equal(first.bank, Cells(NormalPrior(2), 4, seed=6).bank)


def test_draws_of_all_cells_in_their_proportions_are_draws_of_the_prior() -> None:
    cells = Cells(NormalPrior(3), 12, seed=0)
    codes = cells.draw(torch.multinomial(cells.counts.float(), 20_000, replacement=True))
    assert codes.mean(0).abs().max() < 0.05
    assert (codes.std(0) - 1).abs().max() < 0.05


def test_fixed_codes_are_all_codes_or_always_the_same_draws() -> None:
    assert fixed_codes(CategoricalPrior(5), 9).tolist() == [0, 1, 2, 3, 4]
    before = torch.get_rng_state()
    draws = fixed_codes(NormalPrior(2), 9)
    assert draws.shape == (9, 2)
    assert torch.equal(draws, fixed_codes(NormalPrior(2), 9))
    assert torch.equal(before, torch.get_rng_state())


def test_purity_is_the_share_of_each_codes_most_frequent_mode(setup: Setup) -> None:
    diagonal = torch.linalg.solve(setup.base.noise_map, torch.full((8,), 3.0)).view(4, 2)

    def to_goals(td: TensorDict) -> TensorDict:
        """Go to opposite goals by the first two codes, and by the third to both in turns."""
        turns = torch.where(torch.arange(len(td)) // 3 % 2 == 0, 1.0, -1.0)
        way = torch.where(td[keys.LATENT] == 2, turns, 1.0 - 2.0 * td[keys.LATENT])
        return td.set(keys.ACTION, way.view(-1, 1, 1) * diagonal)

    prior = CategoricalPrior(3)
    figures = judge_codes(setup, to_goals, prior, fixed_codes(prior, 0), episodes=48, seed=0)
    assert figures["episodes"] == 48
    assert figures["success"] == 1.0
    assert figures["present_modes"] == figures["commandable_modes"] == 2
    assert figures["purity"] == pytest.approx(5 / 6, abs=0.03)
    assert sum(figures["largest_modes"].values()) == pytest.approx(1.0, abs=0.002)
    assert figures["bound"] is None
