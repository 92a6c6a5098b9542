"""Behaviour cloning: the targets are those of diffusers, and what is cloned decodes to the data."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg_integrations.diffusers import DiffusersPolicy, Normalizer
from modereg_integrations.diffusers.cloning import corrupt

HORIZON, ACTION = 4, 2


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_diffusion_targets_are_those_of_diffusers(kind: str) -> None:
    scheduler = diffusers.DDIMScheduler(prediction_type=kind, beta_schedule="squaredcos_cap_v2")
    data = torch.randn(256, HORIZON, ACTION)
    torch.manual_seed(1)
    mixed, timesteps, target = corrupt(scheduler, data)
    torch.manual_seed(1)
    noise = torch.randn_like(data)
    expected = {
        "epsilon": noise,
        "sample": data,
        "v_prediction": scheduler.get_velocity(data, noise, timesteps),
    }
    torch.testing.assert_close(mixed, scheduler.add_noise(data, noise, timesteps))
    torch.testing.assert_close(target, expected[kind])
    assert timesteps.min() < 100
    assert timesteps.max() > 900


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_targets_lead_from_noise_to_data_along_the_scheduler(shift: float) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=50, shift=shift)
    data = torch.randn(4096, HORIZON, ACTION)
    mixed, timesteps, target = corrupt(scheduler, data)
    sigma = (timesteps / 50)[:, None, None]
    torch.testing.assert_close(mixed - sigma * target, data)
    torch.testing.assert_close(mixed + (1 - sigma) * target, data + target)
    unshifted = sigma / (shift - (shift - 1) * sigma)
    assert float(unshifted.mean()) == pytest.approx(0.5, abs=0.02)
    # Where the target is known, one step of the scheduler from pure noise ends at the data.
    scheduler.set_timesteps(1)
    noise = data + target
    end = scheduler.step(target, scheduler.timesteps[0], noise).prev_sample
    torch.testing.assert_close(end, data)


def test_a_scheduler_without_a_training_form_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
            return sample

    scheduler = diffusers.EDMEulerScheduler()
    policy = DiffusersPolicy(Odd(), scheduler, chunk_shape=(4, 2), observation_keys=[])
    with pytest.raises(ConfigurationError, match="no cloning loss"):
        policy.cloning_loss(torch.randn(3, 4, 2))


class Zero(nn.Module):
    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return torch.zeros_like(sample)


def test_the_mask_leaves_padding_out() -> None:
    scheduler = diffusers.DDIMScheduler(prediction_type="sample")
    policy = DiffusersPolicy(Zero(), scheduler, chunk_shape=(3, 1), observation_keys=[])
    chunk = torch.tensor([[[1.0], [2.0], [100.0]], [[3.0], [100.0], [100.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    loss = policy.cloning_loss(chunk, mask=mask)
    assert float(loss) == pytest.approx((1 + 4 + 9) / 3)
    assert float(policy.cloning_loss(chunk[:1, :2].repeat(1, 2, 1)[:, :3])) == pytest.approx(2.0)
    batched = policy.cloning_loss(chunk[:, None], mask=mask[:, None])
    assert float(batched) == pytest.approx(float(loss))


def two_modes(number: int) -> tuple[Tensor, Tensor]:
    """Chunks on one of two sides, 10 + s * (2 + o), and observations ``[number, 1]``."""
    side = torch.randint(2, (number, 1, 1)) * 2.0 - 1
    observation = torch.rand(number, 1)
    chunk = 10 + side * (2 + observation[:, None]) + 0.05 * torch.randn(number, HORIZON, 1)
    return chunk, observation


@pytest.mark.parametrize(
    ("method", "options"),
    [("diffusion", {}), ("diffusion", {"prediction_type": "sample"}), ("flow", {})],
)
def test_cloning_learns_both_modes(method: str, options: dict[str, Any]) -> None:
    policy = DiffusersPolicy.untrained(
        observation_shapes={"observation": (1,)},
        chunk_shape=(HORIZON, 1),
        method=method,
        hidden=(64, 64),
        **options,
    )
    chunk, observation = two_modes(2000)
    policy.fit_normalizer(chunk, observation)
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(500):
        index = torch.randint(2000, (256,))
        optimizer.zero_grad()
        policy.cloning_loss(chunk[index], observation[index]).backward()
        optimizer.step()
    policy.requires_grad_(False)
    observation = torch.rand(1000, 1)
    made = (policy.decode(torch.randn(1000, HORIZON, 1), observation) - 10).mean(1)
    close = (made.abs() - (2 + observation)).abs() < 0.4
    assert float(close.float().mean()) > 0.85
    assert 0.35 < float((made > 0).float().mean()) < 0.65


@pytest.mark.parametrize("normalization", ["minmax", "meanstd"])
def test_padded_actions_are_no_data(normalization: str) -> None:
    """Chunks of 5 to 7, whose ends are padded by zeros, which no action is."""
    made = [
        DiffusersPolicy.untrained(
            observation_shapes={"observation": (1,)},
            chunk_shape=(4, 2),
            normalization=normalization,
        )
        for _ in range(2)
    ]
    chunk, observation, mask = (
        5 + 2 * torch.rand(64, 4, 2),
        torch.rand(64, 1),
        torch.rand(64, 4) < 0.5,
    )
    made[0].fit_normalizer(chunk * mask[..., None], observation, mask=mask)
    made[1].fit_normalizer(chunk[mask][:, None], observation)
    first, second = (policy.normalizer.state_dict() for policy in made)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_untrained_defaults_end_at_the_data() -> None:
    shapes: dict[Any, tuple[int, ...]] = {("agent", "state"): (3,), "goal": (2,)}
    diffusion = DiffusersPolicy.untrained(
        observation_shapes=shapes, chunk_shape=(4, 2), prediction_type="sample"
    )
    assert diffusion.observation_keys == [("agent", "state"), "goal"]
    assert diffusion.schedule.steps[-1] == ((15, 1.0),)  # the last output is the chunk
    flow = DiffusersPolicy.untrained(
        observation_shapes=shapes, chunk_shape=(4, 2), method="flow", num_inference_steps=5
    )
    steps = [dict(terms)[2 * index + 1] for index, terms in enumerate(flow.schedule.steps)]
    assert steps == pytest.approx([-0.2] * 5)


def test_errors_of_untrained_and_of_the_normalizer() -> None:
    shapes: dict[Any, tuple[int, ...]] = {"observation": (3,)}
    with pytest.raises(ConfigurationError, match="expected method 'diffusion' or 'flow'"):
        DiffusersPolicy.untrained(
            observation_shapes=shapes,
            chunk_shape=(4, 2),
            method="gan",  # type: ignore[arg-type]
        )
    with pytest.raises(ConfigurationError, match="ill-conditioned"):
        DiffusersPolicy.untrained(
            observation_shapes=shapes,
            chunk_shape=(4, 2),
            prediction_type="epsilon",  # type: ignore[arg-type]
        )
    with pytest.raises(ConfigurationError, match="at least one hidden layer"):
        DiffusersPolicy.untrained(observation_shapes=shapes, chunk_shape=(4, 2), hidden=())
    with pytest.raises(ConfigurationError, match="expected mode"):
        Normalizer([(3,)], 2, "whiten")  # type: ignore[arg-type]
    policy = DiffusersPolicy.untrained(observation_shapes=shapes, chunk_shape=(4, 2))
    with pytest.raises(ShapeError, match="expected data for observation_shift_0"):
        policy.fit_normalizer(torch.randn(9, 4, 2), torch.randn(9, 4))
    with pytest.raises(NonFiniteError, match="not finite"):
        policy.fit_normalizer(torch.randn(9, 4, 2), torch.full((9, 3), torch.nan))
