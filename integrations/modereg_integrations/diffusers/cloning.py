"""Behaviour cloning: a scheduler to train for, and what its denoiser is trained to predict."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from modereg.errors import ConfigurationError

__all__ = ["corrupt", "fresh_scheduler", "is_flow"]


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

    Args:
        scheduler: a scheduler of diffusers.
        data: ``[N, H, A]`` in normalised units.

    Returns:
        The denoiser's input ``[N, H, A]``, its time steps ``[N]`` and its target ``[N, H, A]``.

    Raises:
        ConfigurationError: if the scheduler has neither of the two forms.
    """
    noise = torch.randn_like(data)
    if is_flow(scheduler):
        return _corrupt_flow(scheduler, data, noise)
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        raise ConfigurationError(
            f"{type(scheduler).__name__} has no alphas_cumprod and matches no flow, so there is no "
            "cloning loss for it; train with a DDIMScheduler and sample with this one"
        )
    timesteps = torch.randint(len(alphas), (len(data),), device=data.device)
    alpha = alphas.to(data.device)[timesteps].to(data.dtype)[:, None, None]
    signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
    targets = {
        "epsilon": noise,
        "sample": data,
        "v_prediction": signal * noise - spread * data,
    }
    if scheduler.config.prediction_type not in targets:
        raise ConfigurationError(
            f"expected prediction_type 'epsilon', 'sample' or 'v_prediction', got "
            f"{scheduler.config.prediction_type!r}"
        )
    mixed = signal * data + spread * noise
    return mixed, timesteps, targets[scheduler.config.prediction_type]


def _corrupt_flow(scheduler: Any, data: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    sigma = torch.rand(len(data), dtype=data.dtype, device=data.device)
    shift = float(scheduler.config.get("shift", scheduler.config.get("flow_shift", 1.0)) or 1.0)
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    mix = sigma[:, None, None]
    timesteps = sigma * scheduler.config.num_train_timesteps
    return (1 - mix) * data + mix * noise, timesteps, noise - data
