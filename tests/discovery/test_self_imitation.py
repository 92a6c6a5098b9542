"""Refinements are compared with the base: what learned, what is accepted, what is warned of."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from modereg import keys
from modereg.discovery import ClusterModeDiscoverer, SelfImitation
from modereg.errors import ConfigurationError
from modereg.rollouts import Episodes
from modereg.steering import SteeringPolicy

PLACES = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])
NOISES = torch.tensor([[1.5, 0.0], [-1.5, 0.0], [0.0, 1.5]])
BASE = [0] * 200 + [1] * 200 + [2] * 200


@pytest.fixture(scope="module")
def fitted() -> ClusterModeDiscoverer:
    """A discoverer of three places, its codes in the order of ``PLACES``."""
    torch.manual_seed(0)
    discoverer = ClusterModeDiscoverer(2, 3, steps=150, hidden=(16,), noise=0.2)
    discoverer.fit(PLACES[torch.tensor(BASE)] + 0.2 * torch.randn(600, 2))
    return discoverer


def _codes(discoverer: ClusterModeDiscoverer) -> Tensor:
    """The code of each place."""
    places = TensorDict({keys.HISTORY: PLACES}, [3])
    return discoverer.log_prob(places).argmax(-1)


def _stage(discoverer: ClusterModeDiscoverer) -> SelfImitation:
    torch.manual_seed(0)
    return SelfImitation(SteeringPolicy([keys.OBSERVATION], 1, 3, (1, 2)), discoverer)


def _episodes(
    discoverer: ClusterModeDiscoverer,
    places: Sequence[int],
    commanded: Sequence[int],
    success: float = 1.0,
) -> Episodes:
    """Return episodes of two decisions that end in a place though another one was commanded."""
    torch.manual_seed(1)
    place, number = torch.tensor(places), len(places)
    codes = _codes(discoverer)[torch.tensor(commanded)]
    noise = NOISES[place][:, None, None] + 0.1 * torch.randn(number, 2, 1, 2)
    observed = {keys.OBSERVATION: torch.rand(number, 2, 1), keys.ACTION: noise}
    solved = torch.arange(number) % 100 < 100 * success
    final = {
        keys.HISTORY: PLACES[place],
        keys.LATENT: codes,
        keys.SUCCESS: solved.unsqueeze(-1),
    }
    return Episodes(
        decisions=TensorDict(observed, [number, 2]),
        valid=torch.ones(number, 2, dtype=torch.bool),
        final=TensorDict(final, [number]),
        returns=torch.zeros(number),
        env_steps=torch.full((number,), 2),
        spent=2 * number,
        clipped=0.0,
    )


def _drawn(steering: SteeringPolicy) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the noise of each code, ``[3, 2]``."""
    features = torch.eye(3).repeat_interleave(50, 0)
    data = TensorDict({keys.OBSERVATION: torch.rand(150, 1), keys.LATENT_FEATURES: features}, [150])
    with torch.no_grad():
        found = steering.distribution(data)
    means = found.mean.reshape(3, 50, 2).mean(1)
    return means, found.stddev.reshape(3, 50, 2).mean(1)


def test_what_each_code_reaches(fitted: ClusterModeDiscoverer) -> None:
    stage = _stage(fitted)
    stage.compare_with(_episodes(fitted, BASE, BASE))
    commanded = [0] * 100 + [1] * 100 + [2] * 100
    reached = [0] * 100 + [1] * 60 + [0] * 40 + [0] * 100
    row = stage.judge(_episodes(fitted, reached, commanded))
    order = _codes(fitted)
    assert stage.code_hits[order].tolist() == pytest.approx([1.0, 0.6, 0.0])
    assert stage.learned[order].tolist() == [True, True, False]
    assert row["hits"] == pytest.approx(160 / 300)
    assert row["commanded"] == pytest.approx(1 / 3)
    assert row["success"] == 1.0


@pytest.mark.parametrize(
    ("reached", "success", "accepted"),
    [
        (BASE, 1.0, True),
        (BASE, 0.97, True),  # within the tolerance
        (BASE, 0.8, False),
        ([0] * 400 + [1] * 200, 1.0, False),  # a mode is lost
    ],
)
def test_what_loses_modes_or_success_is_not_accepted(
    fitted: ClusterModeDiscoverer, reached: list[int], success: float, accepted: bool
) -> None:
    stage = _stage(fitted)
    stage.compare_with(_episodes(fitted, BASE, BASE))
    row = stage.judge(_episodes(fitted, reached, BASE, success))
    assert row["accepted"] == float(accepted)


def test_a_code_that_did_not_learn_keeps_the_noise_of_the_base(
    fitted: ClusterModeDiscoverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code 2 always ends in place 0: narrowed noise there would lose a mode."""
    stage, order = _stage(fitted), _codes(fitted)
    stage.compare_with(_episodes(fitted, BASE, BASE))
    rolled = _episodes(fitted, [0] * 200 + [1] * 200 + [0] * 200, BASE)
    monkeypatch.setattr(stage, "roll_out", lambda *_: rolled)
    row, _ = stage.refine(None, 600, std=0.7, next_std=0.4, steps=150)
    means, stds = _drawn(stage.steering)
    assert "nll" in row
    assert torch.allclose(stds[order], torch.tensor([[0.4], [0.4], [1.0]]).expand(3, 2))
    assert float((means[order][:2] - NOISES[:2]).abs().max()) < 0.25
    assert float(means[order][2].abs().max()) < 0.25


def test_the_last_accepted_steering_is_what_remains(
    fitted: ClusterModeDiscoverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = _stage(fitted)
    stage.compare_with(_episodes(fitted, BASE, BASE))
    before = {name: value.clone() for name, value in stage.steering.state_dict().items()}
    lost = _episodes(fitted, [0] * 600, BASE)
    monkeypatch.setattr(stage, "roll_out", lambda *_: lost)
    row, _ = stage.refine(None, 600, std=0.9, next_std=0.4, steps=5)
    assert row["accepted"] == 0.0
    sentence = r"1 of 3 codes command; success 1.00, base 1.00; entropy 0.00, base 1.00; it went"
    with pytest.warns(UserWarning, match=sentence):
        stage.settle(stage.judge(lost))
    after = stage.steering.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    means, stds = _drawn(stage.steering)
    assert torch.equal(means, torch.zeros(3, 2))
    assert torch.equal(stds, torch.ones(3, 2))


def test_a_result_that_commands_nothing_is_warned_of(fitted: ClusterModeDiscoverer) -> None:
    stage = _stage(fitted)
    stage.compare_with(_episodes(fitted, BASE, BASE))
    row = stage.judge(_episodes(fitted, BASE, BASE[200:] + BASE[:200]))
    assert row["accepted"] == 1.0
    with pytest.warns(UserWarning, match="0 of 3 codes command; success 1.00, base 1.00"):
        stage.settle(row)
    stage.settle(stage.judge(_episodes(fitted, BASE, BASE)))


def test_a_state_goes_on_as_it_was(fitted: ClusterModeDiscoverer) -> None:
    stage, other = _stage(fitted), _stage(fitted)
    stage.compare_with(_episodes(fitted, BASE, BASE))
    stage.judge(_episodes(fitted, [0] * 600, BASE))
    other.load_state_dict(stage.state_dict())
    rolled = _episodes(fitted, BASE, BASE)
    assert torch.equal(other.learned, stage.learned)
    assert other.judge(rolled) == stage.judge(rolled)


def test_a_code_of_another_prior_is_refused(fitted: ClusterModeDiscoverer) -> None:
    rolled = _episodes(fitted, BASE, BASE)
    rolled.final.set(keys.LATENT, torch.full((600,), 3))
    with pytest.raises(ConfigurationError, match=r"support \[0, 1, 2\], got codes between 3 and 3"):
        _stage(fitted).judge(rolled)
