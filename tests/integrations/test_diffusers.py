"""Decoding with every scheduler of diffusers, against a loop written as its pipelines write it."""

from __future__ import annotations

from typing import Any

import diffusers
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from tensordict import TensorDict
from torch import Tensor, nn

from modereg.errors import ConfigurationError, ShapeError, StochasticSamplerError
from modereg.policies import probe_policy
from modereg_integrations.diffusers import DiffusersPolicy, MLPDenoiser, Normalizer
from modereg_integrations.diffusers.clipping import ClippedSchedule
from modereg_integrations.diffusers.schedule import AffineSchedule, SteppedSchedule
from tests.integrations.unets import unet

# Schedulers of diffusers turn tensors into arrays in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn:DeprecationWarning")

HORIZON, ACTION, OBSERVATION = 4, 2, 3
ALL = ("epsilon", "sample", "v_prediction")
KINDS = [
    ("DDIM", ALL, {"clip_sample": False}),
    ("DDIM", ALL, {"clip_sample": False, "timestep_spacing": "trailing"}),
    ("DDIM", ("v_prediction",), {"rescale_betas_zero_snr": True, "clip_sample": False}),
    ("DDIM", ALL, {"clip_sample": True}),
    ("DDIM", ("sample",), {"clip_sample_range": 0.3, "set_alpha_to_one": False}),
    ("DDIM", ALL, {"thresholding": True, "sample_max_value": 2.0}),
    ("DPMSolverMultistep", (*ALL, "flow_prediction"), {}),
    ("DPMSolverMultistep", ("sample",), {"solver_order": 3, "use_karras_sigmas": True}),
    ("DPMSolverMultistep", ("epsilon",), {"solver_type": "heun", "lower_order_final": True}),
    ("DPMSolverMultistep", ("sample",), {"thresholding": True}),
    ("DPMSolverSinglestep", (*ALL, "flow_prediction"), {"lower_order_final": True}),
    ("EulerDiscrete", ALL, {}),
    ("EulerDiscrete", ("v_prediction",), {"use_karras_sigmas": True}),
    ("HeunDiscrete", ALL, {}),
    ("UniPCMultistep", (*ALL, "flow_prediction"), {}),
    ("UniPCMultistep", ("sample",), {"solver_order": 3}),
    ("PNDM", ("epsilon", "v_prediction"), {}),
    ("PNDM", ("v_prediction",), {"skip_prk_steps": True}),
    ("DEISMultistep", ALL, {}),
    ("LMSDiscrete", ALL, {}),
    ("KDPM2Discrete", ("epsilon", "v_prediction"), {}),
    ("FlowMatchEulerDiscrete", (None,), {"shift": 3.0}),
    ("FlowMatchHeunDiscrete", (None,), {}),
]
CASES = [(name, kind, options) for name, kinds, options in KINDS for kind in kinds]


def scheduler_of(name: str, kind: str | None, options: dict[str, Any]) -> Any:
    extra = {} if kind is None else {"prediction_type": kind, "beta_schedule": "squaredcos_cap_v2"}
    if kind == "flow_prediction":
        extra["use_flow_sigmas"] = True
    # The cosine schedule ends where the noise says next to nothing of the sample.
    if kind == "epsilon" or options.get("use_karras_sigmas"):
        extra["beta_schedule"] = "linear"
    return getattr(diffusers, f"{name}Scheduler")(**{**extra, **options})


class Network(nn.Module):
    """A denoiser with the plain call only, smooth in everything that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(HORIZON * ACTION + OBSERVATION + 1, 32),
            nn.Tanh(),
            nn.Linear(32, HORIZON * ACTION),
        )

    def forward(self, sample: Tensor, timestep: Tensor, observation: Tensor) -> Tensor:
        time = (timestep / 1000).to(sample.dtype).expand(len(sample))[:, None]
        return self.body(torch.cat([sample.flatten(1), observation, time], -1)).view_as(sample)


def diffusers_loop(
    denoiser: Any, scheduler: Any, steps: int, noise: Tensor, *observations: Tensor
) -> Tensor:
    """What a pipeline of diffusers does."""
    scheduler.set_timesteps(steps)
    sample = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        scale = getattr(scheduler, "scale_model_input", lambda value, _: value)
        output = denoiser(scale(sample, timestep), timestep, *observations)
        sample = scheduler.step(output, timestep, sample).prev_sample
    return sample


def policy_of(scheduler: Any, denoiser: nn.Module | None = None, **options: Any) -> DiffusersPolicy:
    policy = DiffusersPolicy(
        Network() if denoiser is None else denoiser,
        scheduler,
        **{"chunk_shape": (HORIZON, ACTION), "num_inference_steps": 6, **options},
    )
    return policy.requires_grad_(False)


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize(("name", "kind", "options"), CASES)
def test_decode_equals_the_loop_of_diffusers(
    name: str, kind: str | None, options: dict[str, Any], steps: int
) -> None:
    steps = max(steps, 4) if name == "PNDM" else steps
    scheduler = scheduler_of(name, kind, options)
    policy = policy_of(scheduler, num_inference_steps=steps).double()
    noise = torch.randn(5, HORIZON, ACTION, dtype=torch.float64)
    observation = torch.randn(5, OBSERVATION, dtype=torch.float64)
    expected = diffusers_loop(policy.denoiser, scheduler, steps, noise, observation)
    # Some schedulers compute in float32 whatever they are given.
    torch.testing.assert_close(
        policy.decode(noise, observation),
        expected.double(),
        rtol=1e-5,
        atol=1e-5 * float(expected.abs().max()),
    )


@pytest.mark.parametrize(("name", "kind", "options"), CASES)
def test_coefficients_are_precomputed_unless_it_thresholds(
    name: str, kind: str | None, options: dict[str, Any]
) -> None:
    scheduler = scheduler_of(name, kind, options)
    schedule = policy_of(scheduler).schedule
    if options.get("thresholding"):
        assert isinstance(schedule, SteppedSchedule)
    elif scheduler.config.get("clip_sample"):
        assert isinstance(schedule, ClippedSchedule)
    else:
        assert isinstance(schedule, AffineSchedule)


@pytest.mark.parametrize(("name", "kind", "options"), CASES)
def test_in_single_precision_it_is_as_exact_as_the_loop(
    name: str, kind: str | None, options: dict[str, Any]
) -> None:
    scheduler = scheduler_of(name, kind, options)
    policy = policy_of(scheduler)
    noise, observation = torch.randn(64, HORIZON, ACTION), torch.randn(64, OBSERVATION)
    ours = policy.decode(noise, observation)
    theirs = diffusers_loop(policy.denoiser, scheduler, 6, noise, observation)
    network = policy.denoiser.double()
    exact = diffusers_loop(network, scheduler, 6, noise.double(), observation.double())
    bound = 2 * (theirs - exact).abs().max() + 1e-6 * exact.abs().max()
    assert (ours - exact).abs().max() <= bound


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_ddim_takes_one_output_and_one_input_a_step(kind: str) -> None:
    schedule = policy_of(scheduler_of("DDIM", kind, {"clip_sample": False})).schedule
    assert isinstance(schedule, AffineSchedule)
    assert all(len(terms) <= 2 for terms in schedule.steps)
    alphas = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod.double()
    now, then = schedule.timesteps[:2]
    signal, spread = alphas[now].sqrt(), (1 - alphas[now]).sqrt()
    signal_then, spread_then = alphas[then].sqrt(), (1 - alphas[then]).sqrt()
    if kind == "sample":  # Song et al., arXiv 2010.02502, equation 12
        expected = (spread_then / spread, signal_then - spread_then * signal / spread)
    else:
        expected = (
            signal_then * signal + spread_then * spread,
            spread_then * signal - signal_then * spread,
        )
    found = tuple(coefficient for _, coefficient in schedule.steps[0])
    assert found == pytest.approx(tuple(map(float, expected)), rel=1e-5)


STOCHASTIC = [
    ("DDPM", {}),
    ("DDPM", {"prediction_type": "sample"}),
    ("EulerAncestralDiscrete", {}),
    ("KDPM2AncestralDiscrete", {}),
    ("LCM", {}),
    ("TCD", {}),
    ("SASolver", {}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverSinglestep", {"algorithm_type": "sde-dpmsolver++"}),
    ("FlowMatchEulerDiscrete", {"stochastic_sampling": True}),
]


@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_a_stochastic_sampler_is_refused_with_the_fix(name: str, options: dict[str, Any]) -> None:
    scheduler = getattr(diffusers, f"{name}Scheduler")(**options)
    with pytest.raises(StochasticSamplerError, match="use a deterministic sampler") as caught:
        policy_of(scheduler)
    if hasattr(scheduler, "alphas_cumprod"):
        assert "DDIMScheduler.from_config(scheduler.config)" in str(caught.value)
        policy_of(diffusers.DDIMScheduler.from_config(scheduler.config))
    else:
        config = {**scheduler.config, "stochastic_sampling": False}
        policy_of(diffusers.FlowMatchEulerDiscreteScheduler.from_config(config))


def test_the_probe_leaves_the_random_state_and_the_scheduler_alone() -> None:
    scheduler = scheduler_of("DPMSolverMultistep", "sample", {})
    torch.manual_seed(3)
    expected = torch.rand(())
    torch.manual_seed(3)
    policy = DiffusersPolicy(nn.Identity(), scheduler, chunk_shape=(HORIZON, ACTION))
    assert torch.rand(()) == expected
    assert scheduler.num_inference_steps is None
    assert policy.scheduler is not scheduler


@given(batch=st.sampled_from([(), (1,), (3,), (2, 3), (2, 1, 2), (0,)]), clip=st.booleans())
def test_any_batch_dimensions_and_every_row_for_itself(batch: tuple[int, ...], clip: bool) -> None:
    policy = policy_of(scheduler_of("DDIM", "sample", {"clip_sample": clip}))
    noise, observation = torch.randn(*batch, HORIZON, ACTION), torch.randn(*batch, OBSERVATION)
    chunk = policy.decode(noise, observation)
    assert chunk.shape == noise.shape
    rows = zip(noise.view(-1, HORIZON, ACTION), observation.view(-1, OBSERVATION), strict=True)
    for decoded, (w, o) in zip(chunk.view(-1, HORIZON, ACTION), rows, strict=True):
        torch.testing.assert_close(decoded, policy.decode(w, o))


def test_blocks_of_a_large_batch_change_nothing() -> None:
    policy = policy_of(scheduler_of("DDIM", "sample", {}))
    noise, observation = torch.randn(2050, HORIZON, ACTION), torch.randn(2050, OBSERVATION)
    whole = policy.decode(noise, observation)
    torch.testing.assert_close(whole[2040:], policy.decode(noise[2040:], observation[2040:]))
    torch.testing.assert_close(whole[:9], policy.decode(noise[:9], observation[:9]))


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("DDIM", "sample", {"clip_sample": False}),
        ("DDIM", "v_prediction", {"clip_sample": True, "clip_sample_range": 2.0}),
        ("DDIM", "sample", {"thresholding": True}),
        ("UniPCMultistep", "v_prediction", {}),
        ("HeunDiscrete", "sample", {}),
    ],
)
def test_gradient_with_respect_to_the_noise(name: str, kind: str, options: dict[str, Any]) -> None:
    policy = policy_of(scheduler_of(name, kind, options), num_inference_steps=4).double()
    noise = 0.3 * torch.randn(2, HORIZON, ACTION, dtype=torch.float64)
    observation = torch.randn(2, OBSERVATION, dtype=torch.float64)
    noise.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: policy.decode(w, observation), noise)


@pytest.mark.parametrize("method", ["diffusion", "flow"])
def test_gradient_through_the_mlp_with_its_hooks(method: str) -> None:
    policy = DiffusersPolicy.untrained(
        observation_shapes={"observation": (OBSERVATION,)},
        chunk_shape=(HORIZON, ACTION),
        method=method,
        hidden=(16, 16),
    )
    policy.requires_grad_(False).double()
    noise = torch.randn(2, HORIZON, ACTION, dtype=torch.float64, requires_grad=True)
    observation = torch.randn(2, OBSERVATION, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: policy.decode(w, observation), noise)
    assert policy.decode(noise.detach(), observation).grad_fn is None


def test_no_graph_where_none_is_asked() -> None:
    policy = policy_of(scheduler_of("DDIM", "sample", {}))
    noise, observation = torch.randn(2, HORIZON, ACTION), torch.randn(2, OBSERVATION)
    assert policy.decode(noise, observation).grad_fn is None
    assert policy.decode(noise.clone().requires_grad_(), observation).grad_fn is not None


@pytest.mark.parametrize("observed", [0, OBSERVATION])
def test_unet1d_is_called_channels_first(observed: int) -> None:
    network = unet(ACTION + observed, ACTION)
    scheduler = scheduler_of("DDIM", "sample", {})
    names = ["observation"] if observed else []
    policy = policy_of(scheduler, network, observation_keys=names, chunk_shape=(8, ACTION))
    noise = torch.randn(3, 8, ACTION)
    observations = (torch.randn(3, observed),) if observed else ()

    def channels_first(sample: Tensor, timestep: Tensor) -> Tensor:
        constant = [value[:, :, None].expand(-1, -1, 8) for value in observations]
        return network(torch.cat([sample, *constant], 1), timestep).sample

    expected = diffusers_loop(channels_first, scheduler, 6, noise.mT).mT
    torch.testing.assert_close(policy.decode(noise, *observations), expected, rtol=1e-4, atol=1e-5)
    loss = policy.requires_grad_().cloning_loss(noise, *observations)
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_unet1d_sees_a_history_step_by_step() -> None:
    network, scheduler = unet(ACTION + 2 * 5, ACTION), scheduler_of("DDIM", "sample", {})
    policy = policy_of(
        scheduler,
        network,
        observation_keys=["place", "pillars"],
        chunk_shape=(8, ACTION),
        observation_steps=2,
    )
    noise, place, pillars = torch.randn(3, 8, ACTION), torch.randn(3, 2, 2), torch.randn(3, 2, 3)
    history = torch.cat([place[:, 0], pillars[:, 0], place[:, 1], pillars[:, 1]], -1)

    def channels_first(sample: Tensor, timestep: Tensor) -> Tensor:
        return network(torch.cat([sample, history[:, :, None].expand(-1, -1, 8)], 1), timestep)[0]

    expected = diffusers_loop(channels_first, scheduler, 6, noise.mT).mT
    decoded = policy.decode(noise, place, pillars)
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-5)


def test_history_normalisation_and_nested_keys() -> None:
    normalizer = Normalizer([(3,), (2, 2)], ACTION, "meanstd")
    observed = [5 + 2 * torch.randn(50, 2, 3), torch.randn(50, 2, 2, 2)]
    chunks = 10 * torch.randn(50, HORIZON, ACTION) - 3
    normalizer.fit(observed, chunks)
    network = MLPDenoiser(ACTION, HORIZON, [6, 8], hidden=[16], observation_octaves=2)
    scheduler = scheduler_of("DDIM", "sample", {})
    policy = policy_of(
        scheduler,
        network,
        observation_keys=[("agent", "state"), "grid"],
        normalizer=normalizer,
        observation_steps=2,
    )
    data = TensorDict({("agent", "state"): observed[0], "grid": observed[1]}, [50])
    noise = torch.randn(50, HORIZON, ACTION)
    scaled = [
        (value - value.flatten(0, 1).mean(0)) / value.flatten(0, 1).std(0, correction=0)
        for value in observed
    ]
    plain = diffusers_loop(network, scheduler, 6, noise, *scaled)
    flat = chunks.flatten(0, 1)
    expected = plain * flat.std(0, correction=0) + flat.mean(0)
    torch.testing.assert_close(policy.decode_from(data, noise), expected, rtol=1e-4, atol=1e-4)
    assert policy(data)["action_chunk"].shape == (50, HORIZON, ACTION)
    probe_policy(policy, data)
    data["grid"] = data["grid"][:, :1]
    with pytest.raises(ShapeError, match="history of 2 steps"):
        policy(data)


def test_errors_say_what_was_expected() -> None:
    scheduler = scheduler_of("DDIM", "sample", {})
    policy = policy_of(scheduler)
    with pytest.raises(ShapeError, match=r"expected noise of shape \[\*B, 4, 2\], got \(3, 5, 2\)"):
        policy.decode(torch.randn(3, 5, 2), torch.randn(3, OBSERVATION))
    with pytest.raises(ShapeError, match="expected 1 observations"):
        policy.decode(torch.randn(3, 4, 2))
    with pytest.raises(ConfigurationError, match="normalizer is of 2 observations"):
        policy_of(scheduler, normalizer=Normalizer([(1,), (1,)], ACTION))
    with pytest.raises(ConfigurationError, match="refuses num_inference_steps=2000"):
        policy_of(scheduler, num_inference_steps=2000)
    with pytest.raises(ConfigurationError, match="num_inference_steps of at least 1, got 0"):
        policy_of(scheduler, num_inference_steps=0)
    with pytest.raises(ConfigurationError, match="no normalizer to fit"):
        policy.fit_normalizer(torch.randn(3, 4, 2), torch.randn(3, OBSERVATION))
    mlp = policy_of(scheduler, MLPDenoiser(ACTION, HORIZON, [OBSERVATION], hidden=[8]))
    with pytest.raises(ShapeError, match="expected observations of 3 numbers in all"):
        mlp.decode(torch.randn(3, 4, 2), torch.randn(3, OBSERVATION + 1))


def test_a_non_finite_sampler_is_refused() -> None:
    scheduler = scheduler_of("DDIM", None, {"rescale_betas_zero_snr": True, "clip_sample": False})
    with pytest.raises(ConfigurationError, match="non-finite sample"):
        policy_of(
            diffusers.DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
        )
