"""Behaviour cloning: a scheduler to train for, and what its denoiser is trained to predict."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from modereg.errors import ConfigurationError
from modereg_integrations.diffusers.schedule import Schedule

__all__ = ["check_clonable", "corrupt", "fresh_scheduler", "is_flow"]


def fresh_scheduler(
    method: str, num_train_timesteps: int, num_inference_steps: int, prediction_type: str
) -> Any:
    """Return a scheduler whose few steps are well conditioned and end at the data.

    Args:
        method: ``"diffusion"``, DDIM with a squared-cosine schedule and ``"trailing"`` spacing, or
            ``"flow"``, equal Euler steps.
        num_train_timesteps: noise levels of a diffusion.
        num_inference_steps: steps that it will be given.
        prediction_type: ``"v_prediction"`` or ``"sample"``, for a diffusion.

    Raises:
        ConfigurationError: if the method or the prediction type is another one.
    """
    if method not in ("diffusion", "flow"):
        raise ConfigurationError(f"expected method 'diffusion' or 'flow', got {method!r}")
    if prediction_type not in ("sample", "v_prediction"):
        raise ConfigurationError(
            f"expected prediction_type 'sample' or 'v_prediction', got {prediction_type!r}; "
            "'epsilon' is ill-conditioned at the first of few steps"
        )
    if method == "flow":
        # With as many training steps as Euler steps, diffusers spaces them equally down to 0.
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=num_inference_steps)
    return DDIMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler integrates a flow (velocity noise - data) rather than a diffusion."""
    if getattr(scheduler.config, "prediction_type", None) == "flow_prediction":
        return True
    return "FlowMatch" in type(scheduler).__name__


def corrupt(scheduler: Any, data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Mix data with noise at random times, as the scheduler undoes it.

    Diffusion (Ho et al., arXiv 2006.11239): :math:`x_t = \sqrt{\bar\alpha_t} a +
    \sqrt{1 - \bar\alpha_t} w`, t uniform over the training steps; the target is :math:`w`
    (``epsilon``), :math:`a` (``sample``) or :math:`\sqrt{\bar\alpha_t} w -
    \sqrt{1 - \bar\alpha_t} a` (``v_prediction``, Salimans and Ho, arXiv 2202.00512).
    Flow matching (Lipman et al., arXiv 2210.02747): :math:`x = (1 - \sigma) a + \sigma w`,
    :math:`\sigma` uniform, then shifted as the scheduler does; the target is :math:`w - a`.
    The time step is the one that the scheduler tells a denoiser at that level of noise.

    Args:
        scheduler: a scheduler of diffusers.
        data: ``[N, H, A]`` in normalised units.

    Returns:
        The denoiser's input ``[N, H, A]``, its time steps ``[N]`` and its target ``[N, H, A]``.

    Raises:
        ConfigurationError: if the scheduler has neither of the two forms.
    """
    noise = torch.randn_like(data)
    kind = _kind(scheduler)
    told, signal, spread = _draw_levels(scheduler, len(data), data)
    signal, spread = (level[:, None, None] for level in (signal, spread))
    return signal * data + spread * noise, told, _target(kind, signal, spread, data, noise)


def check_clonable(scheduler: Any, schedule: Schedule) -> None:
    """Check that decoding undoes what :func:`corrupt` trains, at the times that it is told.

    A denoiser that knows the one chunk of its data, exactly, must decode any noise to that chunk.

    Raises:
        ConfigurationError: if it does not, or there is no training form.
    """
    kind = _kind(scheduler)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((16, 4, 2), generator=generator, dtype=torch.float64)
    data = torch.tensor([0.3, -0.4], dtype=torch.float64).expand_as(noise)

    def oracle(sample: Tensor, step: int) -> Tensor:
        signal, spread = _levels_at(scheduler, schedule.timesteps[step].double())
        mixed_in = (sample - signal * data) / spread.clamp(min=1e-6)
        return _target(kind, signal, spread, data, mixed_in)

    with torch.no_grad():
        error = float((schedule.integrate(noise, oracle) - data).abs().max())
    if not error <= 0.1:
        raise ConfigurationError(
            f"expected a scheduler whose decoding undoes what the cloning loss trains, got "
            f"{type(scheduler).__name__}, under which the exact denoiser of one chunk decodes "
            f"others, off by {error:.3g}; clone with a DDIMScheduler and 'trailing' spacing, or "
            "with more steps"
        )


def _kind(scheduler: Any) -> str:
    """Return what a denoiser is trained to predict: that of diffusers, or ``flow_prediction``."""
    if is_flow(scheduler):
        return "flow_prediction"
    if getattr(scheduler, "alphas_cumprod", None) is None:
        raise ConfigurationError(
            f"{type(scheduler).__name__} has no alphas_cumprod and matches no flow, so there is no "
            "cloning loss for it; train with a DDIMScheduler and sample with this one"
        )
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "sample", "v_prediction"):
        raise ConfigurationError(
            f"expected prediction_type 'epsilon', 'sample' or 'v_prediction', got {kind!r}"
        )
    return kind


def _target(kind: str, signal: Tensor, spread: Tensor, data: Tensor, noise: Tensor) -> Tensor:
    if kind == "flow_prediction":
        return noise - data
    if kind == "v_prediction":
        return signal * noise - spread * data
    return noise if kind == "epsilon" else data


def _is_continuous(scheduler: Any) -> bool:
    """Whether a denoiser is told ``log(spread / signal) / 4``, as EulerDiscrete can be made to."""
    config = scheduler.config
    return config.get("timestep_type") == "continuous" and config.prediction_type == "v_prediction"


def _draw_levels(scheduler: Any, number: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the time steps that a denoiser is told, and the factors of data and noise, ``[N]``."""
    if is_flow(scheduler):
        sigma = torch.rand(number, dtype=like.dtype, device=like.device)
        shift = float(scheduler.config.get("shift", scheduler.config.get("flow_shift", 1.0)) or 1.0)
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
        return sigma * scheduler.config.num_train_timesteps, 1 - sigma, sigma
    alphas = scheduler.alphas_cumprod.to(like.device)
    timesteps = torch.randint(len(alphas), (number,), device=like.device)
    alpha = alphas[timesteps].to(like.dtype)
    signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
    told = (spread / signal).log() / 4 if _is_continuous(scheduler) else timesteps
    return told, signal, spread


def _levels_at(scheduler: Any, told: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of data and noise at a time step that a denoiser is told, float64."""
    if is_flow(scheduler):
        sigma = told / scheduler.config.num_train_timesteps
        return 1 - sigma, sigma
    if _is_continuous(scheduler):
        ratio = (4 * told).exp()
    else:  # between training steps as diffusers interpolates: linearly in the logarithm
        alphas = scheduler.alphas_cumprod.double().cpu()
        logs = ((1 - alphas) / alphas).log() / 2
        place = told.clamp(0, len(logs) - 1)
        low, high = logs[place.floor().long()], logs[place.ceil().long()]
        ratio = torch.lerp(low, high, place - place.floor()).exp()
    signal = (1 + ratio.square()).rsqrt()
    return signal, ratio * signal
