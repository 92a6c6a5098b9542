"""The denoiser's weights, trained: a copy of a policy whose steps draw, and what they drew."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from modereg import keys
from modereg.errors import CheckpointError, ConfigurationError
from modereg.functional import gaussian_step_log_prob
from modereg.policies.code_shifts import CodeShifts, add_shifts, shifted_layers
from modereg.policies.denoising import Denoising, NoisePath
from modereg.policies.generative import GenerativePolicy
from modereg.policies.low_rank import copy_plain, low_rank_copy, merged
from modereg.storage import uncompiled

__all__ = ["ChainSample", "DenoisingChain", "TunedWeights"]


class ChainSample(NamedTuple):
    """What :meth:`DenoisingChain.sample` draws.

    Attributes:
        chunk: in the policy's units, ``[*B, H, A]``.
        chain: what the trained steps went through, ``[*B, K' + 1, H, A]``, in the denoiser's.
        log_prob: log density of each of these steps, nats, ``[*B, K']``.
    """

    chunk: Tensor
    chain: Tensor
    log_prob: Tensor


class TunedWeights(NamedTuple):
    """The trained part of a :class:`DenoisingChain`, apart from its base.

    Attributes:
        weights: parameters of the policy's copy by name: those of its adapters, where it has some.
        steps: how many of the last steps they do.
        rank: of low-rank adapters; None where all weights were trained.
        codes: how many numbers the features of the code are that the denoiser is told; None where
            it is told none.
    """

    weights: dict[str, Tensor]
    steps: int
    rank: int | None = None
    codes: int | None = None

    def chain(self, base: GenerativePolicy, **options: Any) -> DenoisingChain:
        """Return the chain of a base that has these weights.

        Args:
            base: what they were trained from.
            **options: of :class:`DenoisingChain`, besides what is told here.

        Raises:
            CheckpointError: if they are those of another policy.
        """
        told: dict[str, Any] = {"codes": self.codes, "layers": shifted_layers(self.weights)}
        chain = DenoisingChain(base, self.steps, rank=self.rank, **told, **options)
        chain.load_weights(self.weights)
        return chain


class DenoisingChain(GenerativePolicy):
    r"""A base policy whose last denoising steps are done by trained weights.

    :meth:`sample` draws the trained steps,

    .. math:: x_{k+1} \sim N(\mu_\theta(x_k, k, s), \sigma_k^2 I), \quad k = K - K', \dots, K - 1,

    which makes each of them an action of a policy with a likelihood (DPPO, arXiv 2409.00588), and
    :meth:`decode` takes their means without noise: that is how it is judged and deployed. Steps
    before them are done by the frozen base, without noise. At first :meth:`decode` is the base's.

    What sigma is follows from the base's sampler (:meth:`GenerativePolicy.denoising`): for a
    diffusion the noise is DDIM's eta, for a flow the sigma of
    :func:`~modereg.functional.flow_step`, and both keep the distribution of the base's chunks. A
    step that would have less than ``floor`` times the noise (DDIM's last has none, and no
    likelihood) gets that.

    Args:
        base: the base policy, frozen, which stays as it is.
        steps: K', how many of the last steps are trained; None trains all.
        rank: of low-rank adapters (:func:`~modereg.policies.low_rank_copy`) that are trained on
            weights that stay the base's; None trains all weights.
        noise: eta in [0, 1] of a diffusion, sigma of a flow. 0 draws nothing, and has no
            likelihood.
        floor: smallest standard deviation of a step at a noise of 1, in the denoiser's units.
        codes: D, the length of the code's features, ``[*B, D]``, that the copy is told as the last
            of its observations: it shifts the biases of ``layers``. None tells it none.
        layers: names of layers of the base; :func:`~modereg.policies.embed_codes` finds them.
        features_key: entry of these features.

    Attributes:
        base: the base policy.
        tuned: its copy, whose parameters, or the adapters among them, require gradients. Where it
            does all steps it is the trained policy by itself.
        shifts: :class:`~modereg.policies.CodeShifts` of the copy, None where it is told no codes.
        first: the first trained step.
        std: of the trained steps, ``[K']`` float64.

    Raises:
        ConfigurationError: if the policy has no such chain, or an option is out of range.
    """

    std: Tensor

    def __init__(
        self,
        base: GenerativePolicy,
        steps: int | None = None,
        *,
        rank: int | None = None,
        noise: float = 0.3,
        floor: float = 0.3,
        codes: int | None = None,
        layers: Sequence[str] = (),
        features_key: NestedKey = keys.LATENT_FEATURES,
    ) -> None:
        given = {"noise": noise, "floor": floor}
        if wrong := [name for name, value in given.items() if not 0 <= value < math.inf]:
            raise ConfigurationError(
                f"expected {wrong[0]} of at least 0 and finite, got {given[wrong[0]]}"
            )
        frozen = base.denoising(0.0)
        total = len(frozen.keep)
        steps = total if steps is None else steps
        if not 1 <= steps <= total:
            raise ConfigurationError(
                f"expected 1 to {total} trained steps, as many as the policy takes, got {steps}"
            )
        told = [] if codes is None else [features_key]
        super().__init__(
            observation_keys=[*base.observation_keys, *told],
            noise_shape=base.noise_shape,
            chunk_shape=base.chunk_shape,
            observation_shapes=[*base.observation_shapes, *[None for _ in told]],
            autocast=base.autocast,
            noise_key=base.noise_key,
            chunk_key=base.chunk_key,
        )
        self.observation_steps = base.observation_steps
        self.steps, self.noise, self.first, self.rank = steps, noise, total - steps, rank
        self.base = base
        self.codes, self._told_keys = codes, told
        self.tuned = _trainable(base) if rank is None else low_rank_copy(base, rank)
        self.shifts = None if codes is None else CodeShifts(self.tuned, codes, layers)
        named = self.tuned.named_parameters()
        self._learned = [name for name, value in named if rank is None or value.requires_grad]
        self._frozen, self._mean = frozen, self.tuned.denoising(0.0)
        self._drawn, self._anchor = self.tuned.denoising(noise), base.denoising(noise)
        std = self._drawn.std[self.first :].clamp_min(noise * floor)
        self.register_buffer("std", std, persistent=False)

    @property
    def steered_entries(self) -> list[NestedKey]:
        """Where a steered environment has the observations; the code's features are as they are."""
        return [*self.base.steered_entries, *self._told_keys]

    def observation_entries(self, tensordict: TensorDictBase) -> list[NestedKey]:
        """Return where the observations stand, the code's features last."""
        return [*self.base.observation_entries(tensordict), *self._told_keys]

    def configuration(self) -> dict[str, Any]:
        """Add the base's options, the number of trained steps, and what else is trained how."""
        own = {"steps": self.steps, "base": self.base.configuration()}
        options = {"rank": self.rank, "codes": self.codes}
        own |= {name: value for name, value in options.items() if value is not None}
        return super().configuration() | own

    def decode(self, noise: Tensor, *observations: Any) -> Tensor:
        """Decode without noise in the steps: ``[*B, *noise_shape]`` to ``[*B, H, A]``."""
        if self.first == 0 and self.shifts is None:
            return self.tuned.decode(noise, *observations)
        rows, values = _rows(noise, observations)
        with self._telling(values) as read:
            if self.first == 0:
                return self.tuned.decode(rows, *read).reshape(noise.shape)
            for step in range(self.first + self.steps):
                part = self._frozen if step < self.first else self._mean
                rows = part.mean(rows, _step(step, rows), *read)
        return self._mean.chunk(rows).reshape(noise.shape)

    @torch.no_grad()
    def sample(self, noise: Tensor, *observations: Any) -> ChainSample:
        """Draw a chunk from noise ``[*B, *noise_shape]``; observations are as for :meth:`decode`.

        The likelihoods are those of what was drawn, before anything is clipped.
        """
        rows, values = _rows(noise, observations)
        with self._telling(values) as read:
            for step in range(self.first):
                rows = self._frozen.mean(rows, _step(step, rows), *read)
            chain, log_probs = [rows], []
            for index, deviation in enumerate(self.std.to(rows).unbind()):
                mean = self._drawn.mean(rows, _step(self.first + index, rows), *read)
                rows = mean + deviation * torch.randn_like(mean)
                log_probs.append(gaussian_step_log_prob(rows, mean, deviation.expand(len(rows))))
                chain.append(rows)
        batch = noise.shape[: -len(self.noise_shape)]
        whole, log_prob = torch.stack(chain, 1), torch.stack(log_probs, 1)
        return ChainSample(
            self._drawn.chunk(rows).reshape(noise.shape),
            whole.reshape(*batch, *whole.shape[1:]),
            log_prob.reshape(*batch, self.steps),
        )

    def means(self, chain: Tensor, *observations: Any) -> Tensor:
        """Return the means of all steps, ``[n, K', H, A]``, in one pass of the denoiser.

        Args:
            chain: of :meth:`sample`, ``[n, K' + 1, H, A]``.
            observations: ``[n, ...]`` each.
        """
        return self._means(self._drawn, chain, observations)

    @torch.no_grad()
    def base_means(self, chain: Tensor, *observations: Any) -> Tensor:
        """Return what :meth:`means` are with the base's weights, ``[n, K', H, A]``."""
        return self._means(self._anchor, chain, observations)

    @property
    def path(self) -> NoisePath:
        """What the steps stand for; the trained ones are those from ``first`` on."""
        return self._mean.path

    def predicted(self, sample: Tensor, step: Tensor, *observations: Any) -> Tensor:
        """Return what the trained weights take for the chunk of x, ``[n, H, A]``.

        Args:
            sample: x of :attr:`path`, in the denoiser's units, ``[n, H, A]``.
            step: of each, ``[n]`` int64.
            observations: ``[n, ...]`` each.

        Returns:
            In the denoiser's units, as :meth:`normalised` has them.
        """
        with self._telling(observations) as read:
            return self._mean.predicted(sample, step, *read)

    @torch.no_grad()
    def base_predicted(self, sample: Tensor, step: Tensor, *observations: Any) -> Tensor:
        """Return what :meth:`predicted` is with the base's weights, ``[n, H, A]``."""
        with self._telling(observations) as read:
            return self._frozen.predicted(sample, step, *read)

    def normalised(self, chunk: Tensor) -> Tensor:
        """Return a chunk of the policy's units in the denoiser's, ``[n, H, A]`` both."""
        return self._mean.normalised(chunk)

    def physical(self, sample: Tensor) -> Tensor:
        """Return a chunk of the denoiser's units in the policy's, ``[n, H, A]`` both."""
        return self._mean.chunk(sample)

    def _means(self, part: Denoising, chain: Tensor, observations: Any) -> Tensor:
        number, shape = len(chain), self.noise_shape
        rows = chain[:, :-1].reshape(-1, *shape)
        step = torch.arange(self.first, self.first + self.steps, device=chain.device)
        values = [value.repeat_interleave(self.steps, 0) for value in observations]
        with self._telling(values) as read:
            mean = part.mean(rows, step.repeat(number), *read)
        return mean.reshape(number, self.steps, *shape)

    @contextmanager
    def _telling(self, observations: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Tell the copy the codes, and give what the denoiser reads itself; the base hears none."""
        if self.shifts is None:
            yield observations
        else:
            with self.shifts.told(observations[-1]):
                yield observations[:-1]

    def log_prob(self, chain: Tensor, means: Tensor) -> Tensor:
        """Return the log density of each step, nats, ``[n, K']``.

        Args:
            chain: ``[n, K' + 1, H, A]``.
            means: of these steps, ``[n, K', H, A]``.
        """
        std = self.std.to(chain).expand(len(chain), -1)
        return gaussian_step_log_prob(chain[:, 1:], means, std)

    def weights(self) -> TunedWeights:
        """Return a copy of the trained weights, on the CPU."""
        named = self._trained().items()
        copies = {name: value.detach().cpu().clone().contiguous() for name, value in named}
        return TunedWeights(copies, self.steps, self.rank, self.codes)

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`weights` returned.

        Raises:
            CheckpointError: if they are not those of such a policy.
        """
        own = self._trained()
        expected, found = ({n: v.shape for n, v in part.items()} for part in (own, weights))
        if odd := sorted(n for n in {**expected, **found} if expected.get(n) != found.get(n)):
            raise CheckpointError(
                f"expected the weights of {type(self.base).__name__}, got others, in {odd[:3]}; "
                "load them beside the base that they were trained from"
            )
        for name, value in own.items():
            value.copy_(weights[name])

    def _trained(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by names that are the same compiled or not."""
        named = dict(self.tuned.named_parameters())
        return {uncompiled(name): named[name] for name in self._learned}

    def fixed(self, code: int | Tensor) -> DenoisingChain:
        """Return the chain of one code, told none: its shifts are added to biases of a copy.

        It has plain weights, without adapters, and no noise in its steps. What it plays is to float
        precision what this chain does of the code.

        Args:
            code: its number, or its features, ``[D]``.
        """
        made = DenoisingChain(self.base, self.steps, noise=0.0)
        copy_plain(self.tuned, made.tuned)
        if self.codes is not None:
            eye = torch.eye(self.codes, device=self.std.device)
            features = eye[code] if isinstance(code, int) else torch.as_tensor(code)
            add_shifts(self.tuned, features, made.tuned)
        return made

    def save_whole(self, folder: Path | str) -> bool:
        """Save the trained policy as a policy of its own, and return whether that can be done.

        It can where all steps were trained, by a class with ``save_pretrained``, whose folder needs
        neither the base nor modereg. Low-rank adapters are merged into its weights. A policy that
        is told codes is saved for one of them, by :meth:`fixed`.
        """
        told = self.codes is not None
        if self.first or told or not hasattr(self.tuned, "save_pretrained"):
            return False
        whole: Any = self.tuned if self.rank is None else merged(self.tuned, self.base)
        whole.save_pretrained(folder)
        return True


def _trainable(base: GenerativePolicy) -> GenerativePolicy:
    """Return a copy all of whose weights require gradients."""
    made = copy.deepcopy(base)
    for value in made.parameters():
        value.requires_grad_(value.is_floating_point())
    return made


def _rows(noise: Tensor, observations: Any) -> tuple[Tensor, list[Any]]:
    """Flatten the batch of noise ``[*B, H, A]`` and observations ``[*B, ...]``."""
    dims = noise.ndim - 2
    values = [value.reshape(-1, *value.shape[dims:]) for value in observations]
    return noise.reshape(-1, *noise.shape[-2:]), values


def _step(index: int, rows: Tensor) -> Tensor:
    return torch.full((len(rows),), index, device=rows.device)
