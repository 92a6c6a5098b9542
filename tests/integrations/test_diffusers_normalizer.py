"""Normalizer: fitted to data, or made of statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modereg.errors import ConfigurationError, ShapeError
from modereg_integrations.diffusers import Normalizer


def test_minmax_maps_the_data_to_the_unit_interval_and_keeps_constants() -> None:
    normalizer = Normalizer([(2,)], 1)
    data = torch.stack([torch.linspace(3, 7, 20), torch.full((20,), 4.0)], -1)
    normalizer.fit([data], torch.linspace(-2, 0, 20)[:, None, None])
    scaled = normalizer.normalize_observation(0, data)
    torch.testing.assert_close(scaled[:, 0], torch.linspace(-1, 1, 20))
    assert (scaled[:, 1] == 0).all()
    action = torch.randn(3, 4, 1)
    round_trip = normalizer.denormalize_action(normalizer.normalize_action(action))
    torch.testing.assert_close(round_trip, action)


@pytest.mark.parametrize("mode", ["minmax", "meanstd"])
def test_statistics_of_a_data_set_give_the_normalizer_that_the_data_give(mode: Any) -> None:
    data, chunks = 5 * torch.randn(64, 3), 0.1 * torch.randn(64, 4, 2) - 7
    fitted = Normalizer([(3,)], 2, mode)
    fitted.fit([data], chunks)
    given = [
        {
            "min": rows.amin(0).tolist(),
            "max": rows.amax(0).numpy(),
            "mean": rows.mean(0),
            "std": rows.std(0, correction=0),
        }
        for rows in (data, chunks.flatten(0, 1))
    ]
    made = Normalizer.from_statistics(given[:1], given[1], mode)
    for name, value in fitted.named_buffers():
        torch.testing.assert_close(made.get_buffer(name), value)


def test_statistics_that_do_not_fit_are_refused() -> None:
    bounds = {"min": [0.0, 0.0], "max": [1.0, 1.0]}
    with pytest.raises(ConfigurationError, match="mean and std .* got .'max', 'min'.; add mean"):
        Normalizer.from_statistics([bounds], bounds, "meanstd")
    with pytest.raises(ConfigurationError, match="got 'identity'"):
        Normalizer.from_statistics([bounds], bounds, "identity")
    with pytest.raises(ShapeError, match=r"of one shape, got \(2,\) and \(1,\)"):
        Normalizer.from_statistics([], {"min": [0.0, 0.0], "max": [1.0]})


LOW, HIGH = torch.tensor([-0.5, 0.2]), torch.tensor([0.5, 0.2])


def test_a_constant_dimension_is_what_lerobot_and_dppo_make_of_it() -> None:
    bounds = {"min": LOW, "max": HIGH}
    made = Normalizer.from_statistics([bounds], bounds, constant="collapsed")
    data = torch.tensor([[0.0, 0.2], [0.5, 0.2]])
    lerobot = (data - LOW) / (HIGH - LOW + 1e-8) * 2 - 1
    dppo = 2 * ((data - LOW) / (HIGH - LOW + 1e-6) - 0.5)
    for theirs in (lerobot, dppo):
        torch.testing.assert_close(made.normalize_observation(0, data), theirs, atol=1e-5, rtol=0)
        torch.testing.assert_close(made.normalize_action(data), theirs, atol=1e-5, rtol=0)
    decoded = made.denormalize_action(lerobot + torch.tensor([0.0, 0.3]))
    torch.testing.assert_close(decoded, data)
    again = Normalizer(**made.options())
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.normalize_action(data), made.normalize_action(data))


def test_a_constant_dimension_of_diffusion_policy_is_centered() -> None:
    bounds = {"min": LOW, "max": HIGH}
    made = Normalizer.from_statistics([bounds], bounds, constant="centered")
    data = torch.tensor([[0.0, 0.2], [0.5, 0.2]])
    expected = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(made.normalize_observation(0, data), expected)
    torch.testing.assert_close(made.denormalize_action(expected), data)


def test_mean_and_deviation_of_a_constant_dimension_collapse_to_it() -> None:
    given = {"mean": [0.0, 0.2], "std": [0.3, 0.0]}
    made = Normalizer.from_statistics([given], given, "meanstd", constant="collapsed")
    decoded = made.denormalize_action(torch.tensor([[0.0, 0.5]]))
    torch.testing.assert_close(decoded, torch.tensor([[0.0, 0.2]]))
    assert made.normalize_action(torch.tensor([[0.0, 0.7]]))[0, 1] == 0


def test_a_constant_dimension_needs_a_convention() -> None:
    bounds = {"min": LOW, "max": HIGH}
    with pytest.raises(ConfigurationError, match=r"or nearly, at \[1\].*'collapsed' \(LeRobot"):
        Normalizer.from_statistics([bounds], bounds)
    with pytest.raises(ConfigurationError, match="'centered' or 'collapsed', got 'zero'"):
        Normalizer([(2,)], 2, constant="zero")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "below", "above"),
    [
        ("minmax", {"min": [0.5], "max": [0.50009]}, {"min": [0.0], "max": [1.1e-4]}),
        ("meanstd", {"mean": [0.5], "std": [0.9e-4]}, {"mean": [0.5], "std": [1.1e-4]}),
    ],
)
def test_a_range_that_diffusion_policy_leaves_as_it_is(
    mode: Any, below: dict[str, list[float]], above: dict[str, list[float]]
) -> None:
    """Its ``range_eps`` is 1e-4; whoever scales by less than that makes noise of it."""
    with pytest.raises(ConfigurationError, match="say what the policy's library does"):
        Normalizer.from_statistics([below], below, mode)
    centered = Normalizer.from_statistics([below], below, mode, "centered")
    assert float(centered.action_scale) == 1.0
    collapsed = Normalizer.from_statistics([below], below, mode, "collapsed")
    assert 0 < float(collapsed.action_scale) < 1e-4, "LeRobot and DPPO scale it"
    assert 0 < float(Normalizer.from_statistics([above], above, mode).action_scale) < 1e-3
