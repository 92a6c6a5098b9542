r"""How much the noise of a base policy decides of an episode, in nats.

M noises are drawn once and each is held for a whole episode, the same at every decision. The
information between the index i of the noise and the episode's final feature f is 0 where the noise
decides nothing and log M where f tells every noise apart. Differences that do not matter are
smoothed away: what is estimated is :math:`I(i; f + \sigma \epsilon)` with a Gaussian
:math:`\epsilon \sim N(0, I)`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg import functional, keys
from modereg.devices import forked_generators
from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg.networks import MLP

__all__ = ["HeldNoise", "IndexInformation", "common_scale", "index_information"]

LEAST_SCALE = 0.01
"""Smallest common scale, in units of how far the feature moves within episodes."""

MOMENTS = 20
"""How often in training q is validated."""

SHARPNESS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1)
"""Factors of q's logits that are tried in validation: a q that has learned too much is too sure."""

DRAWS = 8
"""Draws of the smoothing noise for each episode on which a classifier is judged."""


class HeldNoise:
    """A policy that holds one of M noises for a whole episode: the code says which.

    Args:
        noises: ``[M, *noise_shape]``.
    """

    def __init__(self, noises: Tensor) -> None:
        self.noises = noises

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the noise of each row's code as its action, ``[*B, *noise_shape]``."""
        return tensordict.set(keys.ACTION, self.noises[tensordict.get(keys.LATENT)])


@dataclass(frozen=True)
class IndexInformation:
    """What :func:`index_information` returns.

    Attributes:
        value: the estimate, nats in [0, log M].
        standard_error: of the value over draws of the held-out episodes, nats.
        num_episodes: number of held-out episodes.
    """

    value: float
    standard_error: float
    num_episodes: int


def common_scale(history: Tensor) -> float:
    """Return the scale of a history's features, one number for all of them.

    The root of the mean variance over features, as :class:`~modereg.networks.InputNoise` has it,
    but at least a hundredth of the same over episodes and time: episodes that differ by next to
    nothing are not blown up.

    Args:
        history: ``[N, L + 1, D]``, one row an episode.
    """
    between = history.flatten(1).var(0).mean().sqrt()
    travelled = history.flatten(0, 1).var(0).mean().sqrt()
    return float(torch.maximum(between, LEAST_SCALE * travelled))


def index_information(
    index: Tensor,
    features: Tensor,
    num_codes: int,
    *,
    noise: float,
    hidden: tuple[int, ...] = (128, 128),
    steps: int = 600,
    held_out: float = 0.25,
    seed: int = 0,
) -> IndexInformation:
    r"""Estimate :math:`I(i; f + \sigma \epsilon)` by a classifier, on episodes it has not seen.

    :math:`\log M + E[\log q(i \mid f + \sigma \epsilon)]`, the bound of Barber and Agakov (NIPS
    2003) for an index that is uniform on M values: at most log M whatever q is, and at most the
    information in expectation. q is trained with fresh noise at every step. An eighth of the other
    episodes chooses among 20 moments of its training, factors of its logits, and the uniform q,
    which gives 0. Too few episodes for many features leave the value below the information; Ross'
    estimate (:func:`~modereg.information.ross_information`) falls further short there, on 2048
    episodes of Avoid with 26 features and 32 noises by half a nat below this bound.

    Torch's global generator is left as it is.

    Args:
        index: ``[N]`` int64 in [0, M), uniform.
        features: ``[N, F]``.
        num_codes: M.
        noise: sigma, in feature units.
        hidden: widths of q.
        steps: Adam steps.
        held_out: share of the episodes on which the estimate is made, in (0, 1).
        seed: of everything.

    Raises:
        ShapeError: if there is not one feature for each index.
        NonFiniteError: if a feature is not finite.
        ConfigurationError: if there are fewer than 16 episodes, or an option is out of range.
    """
    _check(index, features, num_codes, noise, held_out)
    with forked_generators(features.device), torch.enable_grad():
        torch.manual_seed(seed)
        order = torch.randperm(len(index))
        index, features = index[order].cpu(), features[order].cpu().float()
        cut = max(round(held_out * len(index)), 1)
        valid = cut + max((len(index) - cut) // 8, 1)
        learned = slice(valid, None)
        network = _network(features[learned], num_codes, hidden)
        chosen = slice(cut, valid)
        sharpness = _train(
            network, index[learned], features[learned], index[chosen], features[chosen],
            noise=noise, steps=steps,
        )  # fmt: skip
        terms = _terms(sharpness * _logits(network, features[:cut], noise), index[:cut])
    error = float(terms.std() / math.sqrt(cut)) if cut > 1 else math.inf
    return IndexInformation(max(float(terms.mean()), 0.0), error, cut)


def _network(features: Tensor, num_codes: int, hidden: tuple[int, ...]) -> MLP:
    """Return q, which starts uniform and reads features of a common scale."""
    network = MLP(features.shape[-1], num_codes, hidden, zero_init=True)
    network.features.shift.copy_(features.mean(0))
    network.features.scale.fill_(float(features.var(0).mean().sqrt().clamp_min(1e-6)))
    return network


def _train(
    network: MLP,
    index: Tensor,
    features: Tensor,
    valid_index: Tensor,
    valid_features: Tensor,
    *,
    noise: float,
    steps: int,
) -> float:
    """Train q, leave it as it was when it validated best; return the best factor of its logits."""
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, sharpness, state = 0.0, 0.0, copy.deepcopy(network.state_dict())
    for step in range(1, steps + 1):
        rows = torch.randint(len(index), (512,))
        inputs = features[rows] + noise * torch.randn(512, features.shape[-1])
        optimizer.zero_grad(set_to_none=True)
        functional.inference_loss(network(inputs), index[rows]).backward()
        optimizer.step()
        schedule.step()
        if step % max(steps // MOMENTS, 1) == 0:
            value, factor = _sharpest(_logits(network, valid_features, noise), valid_index)
            if value > best:
                best, sharpness, state = value, factor, copy.deepcopy(network.state_dict())
    network.load_state_dict(state)
    return sharpness


@torch.no_grad()
def _logits(network: MLP, features: Tensor, noise: float) -> Tensor:
    """Return q's logits of several draws of the noise, ``[DRAWS, N, M]``."""
    wide = features.expand(DRAWS, *features.shape)
    return network(wide + noise * torch.randn(wide.shape))


def _sharpest(logits: Tensor, index: Tensor) -> tuple[float, float]:
    """Return the largest mean over factors of the logits, nats, and that factor."""
    return max((float(_terms(factor * logits, index).mean()), factor) for factor in SHARPNESS)


def _terms(logits: Tensor, index: Tensor) -> Tensor:
    """Return log q - log p of each episode, the mean over draws, ``[N]`` nats."""
    own = logits.log_softmax(-1).gather(-1, index.expand(len(logits), -1).unsqueeze(-1))
    return own.squeeze(-1).mean(0) + math.log(logits.shape[-1])


def _check(index: Tensor, features: Tensor, num_codes: int, noise: float, held_out: float) -> None:
    if features.ndim != 2 or index.shape != features.shape[:1]:
        raise ShapeError(
            f"expected an index [N] and features [N, F], got {tuple(index.shape)} and "
            f"{tuple(features.shape)}; flatten them beyond the episodes"
        )
    if not bool(torch.isfinite(features).all()):
        raise NonFiniteError(
            "expected finite features, got NaN or infinities; look at the observations of the "
            "base's episodes"
        )
    if len(index) < 16 or num_codes < 2 or not noise >= 0 or not 0 < held_out < 1:
        raise ConfigurationError(
            "expected at least 16 episodes, 2 noises, noise >= 0 and held_out in (0, 1), got "
            f"{len(index)}, {num_codes}, {noise} and {held_out}"
        )
    if int(index.min()) < 0 or int(index.max()) >= num_codes:
        raise ConfigurationError(
            f"expected an index in [0, {num_codes}), got {int(index.min())} to {int(index.max())}"
        )
