"""What the cloning loss trains is what decoding uses: for every scheduler, or it is refused."""

from __future__ import annotations

import warnings
from typing import Any

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from modereg.errors import ConfigurationError, StochasticSamplerError
from modereg_integrations.diffusers import DiffusersPolicy
from modereg_integrations.diffusers.cloning import corrupt

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TARGET = torch.tensor([0.3, -0.4])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"timestep_spacing": "trailing"},
    {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    {"prediction_type": "v_prediction", "timestep_type": "continuous"},
    {"prediction_type": "sample"},
    {"prediction_type": "v_prediction", "use_karras_sigmas": True},
    {"prediction_type": "v_prediction", "timestep_type": "continuous", "use_karras_sigmas": True},
    {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
    {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    {"shift": 3.0},
    {"shift_terminal": 0.1},
    {"invert_sigmas": True},
    {"use_exponential_sigmas": True},
    {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
]
NAMES = sorted(
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler")
    and not name.startswith("Flax")
    and isinstance(getattr(diffusers, name), type)
    and issubclass(getattr(diffusers, name), SchedulerMixin)
)


class Fitted(nn.Module):
    """The minimiser of the cloning loss for one chunk, found from draws of the loss alone."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        data = TARGET.expand(40_000, 1, 2)
        self.inputs, self.times, self.outputs = corrupt(scheduler, data)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        near = (self.times.float() - float(timestep)).abs().topk(400, largest=False).indices
        result = torch.empty_like(sample)
        for dim in range(2):
            x, y = (values[near, 0, dim].double() for values in (self.inputs, self.outputs))
            matrix = torch.stack([x, torch.ones_like(x)], 1)
            slope, offset = torch.linalg.lstsq(matrix, y[:, None]).solution.squeeze(-1)
            result[..., dim] = sample[..., dim] * slope + offset
        return result


def made(name: str, options: dict[str, Any]) -> Any:
    kind = getattr(diffusers, name)
    known = set(kind.__init__.__wrapped__.__code__.co_varnames)
    if not set(options) <= known:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return kind(**options, **({"clip_sample": False} if "clip_sample" in known else {}))
        except (ValueError, NotImplementedError, ImportError, TypeError):
            return None


@pytest.mark.parametrize("name", NAMES)
def test_what_is_cloned_decodes_to_the_data_or_is_refused(name: str) -> None:
    for options in OPTIONS:
        scheduler = made(name, options)
        if scheduler is None:
            continue
        try:
            policy = DiffusersPolicy(
                nn.Identity(),
                scheduler,
                chunk_shape=(1, 2),
                observation_keys=[],
                num_inference_steps=10,
            )
            policy.denoiser = Zero()
            policy.cloning_loss(TARGET.expand(4, 1, 2))
        except (ConfigurationError, StochasticSamplerError):
            continue
        policy.denoiser = Fitted(scheduler)
        with torch.no_grad():
            chunk = policy.decode(torch.randn(64, 1, 2))
        error = (chunk.mean((0, 1)) - TARGET).abs().max()
        assert error < 0.05, (options, chunk.mean((0, 1)))
        assert chunk.std(0).mean() < 0.2, (options, chunk.std(0))


class Zero(nn.Module):
    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return torch.zeros_like(sample)


CLONED = ["DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"]


@pytest.mark.parametrize("name", CLONED)
def test_the_usual_schedulers_are_not_refused(name: str) -> None:
    options: list[dict[str, Any]] = [{}, {"timestep_spacing": "trailing"}]
    if name.startswith("Euler"):
        options.append({"prediction_type": "v_prediction", "timestep_type": "continuous"})
    for each in options:
        scheduler = made(name, each)
        if scheduler is not None:
            policy = DiffusersPolicy(Zero(), scheduler, chunk_shape=(1, 2), observation_keys=[])
            assert torch.isfinite(policy.cloning_loss(TARGET.expand(4, 1, 2)))


def test_inverted_times_are_refused() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    policy = DiffusersPolicy(Zero(), scheduler, chunk_shape=(1, 2), observation_keys=[])
    with pytest.raises(ConfigurationError, match="whose decoding undoes what the cloning loss"):
        policy.cloning_loss(TARGET.expand(4, 1, 2))


ALONE: list[tuple[str, dict[str, Any]]] = [
    ("KarrasVeScheduler", {}),
    ("RePaintScheduler", {}),
    ("ScoreSdeVeScheduler", {}),
    ("CogVideoXDPMScheduler", {}),
    ("DPMSolverMultistepScheduler", {"variance_type": "learned_range"}),
]


@pytest.mark.parametrize(("name", "options"), ALONE)
def test_a_scheduler_that_does_not_run_alone_is_refused_in_a_sentence(
    name: str, options: dict[str, Any]
) -> None:
    scheduler = getattr(diffusers, name, None)
    if scheduler is None:
        pytest.skip(f"this diffusers has no {name}")
    with pytest.raises(ConfigurationError) as caught:
        DiffusersPolicy(Zero(), scheduler(**options), chunk_shape=(4, 2), observation_keys=[])
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


class Smooth(nn.Module):
    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return torch.tanh(sample) * 0.5 + 0.001 * float(timestep)


BY_HAND: list[tuple[str, dict[str, list[float]]]] = [
    ("FlowMatchEulerDiscreteScheduler", {"sigmas": [1.0, 0.75, 0.5, 0.25]}),
    ("DPMSolverMultistepScheduler", {"timesteps": [999, 700, 300, 50]}),
    ("EulerDiscreteScheduler", {"timesteps": [999, 700, 300, 50]}),
    ("HeunDiscreteScheduler", {"timesteps": [999, 700, 300, 50]}),
]


@pytest.mark.parametrize(("name", "given"), BY_HAND)
def test_time_steps_set_by_hand_are_refused_with_the_option_that_gives_them(
    name: str, given: dict[str, list[float]], tmp_path: Any
) -> None:
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(**given)
    options: dict[str, Any] = {"chunk_shape": (4, 2), "observation_keys": []}
    with pytest.raises(ConfigurationError, match=r"set by hand.*timesteps=\[...\] or sigmas"):
        DiffusersPolicy(Smooth(), scheduler, **options)
    policy = DiffusersPolicy(Smooth(), scheduler, **options, **given)
    noise = torch.randn(4, 4, 2)
    sample = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    for timestep in scheduler.timesteps:
        scale = getattr(scheduler, "scale_model_input", lambda value, _: value)
        output = Smooth()(scale(sample, timestep), timestep)
        sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
    torch.testing.assert_close(policy.decode(noise), sample, rtol=1e-4, atol=1e-4)
    policy.save_pretrained(tmp_path / "policy")
    loaded = DiffusersPolicy.from_pretrained(tmp_path / "policy", denoiser=Smooth())
    assert torch.equal(loaded.decode(noise), policy.decode(noise))
    plain = getattr(diffusers, name)()
    plain.set_timesteps(6)  # what a number of steps gives is nobody's own choice
    assert DiffusersPolicy(Smooth(), plain, **options).num_inference_steps == 8


def test_time_steps_that_a_scheduler_does_not_take_are_refused() -> None:
    scheduler = diffusers.DDIMScheduler()
    with pytest.raises(ConfigurationError, match=r"DDIMScheduler refuses timesteps=\[9.0, 1.0\]"):
        DiffusersPolicy(
            Smooth(), scheduler, chunk_shape=(4, 2), observation_keys=[], timesteps=[9, 1]
        )
