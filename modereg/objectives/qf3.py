"""The gradient of a critic on the weights of a denoiser, by one call of its velocity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from modereg import keys
from modereg.decoding import ChunkDecoder
from modereg.errors import ConfigurationError
from modereg.objectives.replay import ChunkReplayLoss
from modereg.policies import DenoisingChain
from modereg.policies.denoising import at
from modereg.reading import in_next, require
from modereg.steering import SteeringPolicy

__all__ = ["QF3Loss"]

Noise = Literal["played", "independent"]


class QF3Loss(ChunkReplayLoss):
    r"""Moves a denoiser to where a critic values what it would make of chunks that were played.

    QF3 (arXiv 2610.08789), for flows. Of a transition, a chunk a in the denoiser's units, with
    noise w and a time t, :math:`x = t a + (1 - t) w`, and :math:`d = v(x, t, s) - (a - w)` is the
    error of the velocity there. Followed to the end it would lead from x to :math:`a + (1 - t) d`;
    the critic values a chunk that goes as far along d as a bound :math:`\alpha` allows, number by
    number, and ``loss_actor`` is

    .. math::
        E [ - \min_i Q_i(s, a + (1 - t) \, \mathrm{clip}(d, -\alpha, \alpha)) / \overline{|Q|}
        + \tfrac{\lambda}{2} |d|^2 + \tfrac{\beta}{2} |v - v^{base}|^2 ]

    by the gradient of v, which is called once: no chain of steps is differentiated. A number of d
    beyond :math:`\alpha` gets no gradient of Q, as the clip says, and the second term, flow
    matching on what was played, brings it back; so the critic is asked near chunks that it has
    seen. The third term, zero at first, holds the velocity at the base's; ``kl`` is it without its
    weight, since half a squared distance of drifts is what two processes of unit noise are apart
    in nats (Girsanov). The mean size of Q makes the weights independent of the reward's scale, and
    norms are sums over the numbers of a chunk.

    A diffusion's :math:`x = \alpha_t a + \sigma_t w` is that path, divided by
    :math:`\alpha_t + \sigma_t` (:class:`~modereg.policies.NoisePath`), and d is
    :math:`(\hat a - a) / (1 - t)` of the chunk :math:`\hat a` that the network predicts, directly
    or by way of noise or velocity. Times are those of the sampler's own steps, each as often, since
    no other is ever played; where an error of the network would become more than 20 times as large
    in d, as near t = 0 where it predicts the noise, d is shortened, in all three terms
    (:attr:`~modereg.policies.NoisePath.rates`).

    ``loss_qvalue`` is that of :class:`~modereg.objectives.ReplayLoss`, its x' the chunk that is
    decoded at s' by the weights as they are. A residual moves the chunk afterwards, as it did.

    Args:
        chain: whose trained weights learn, in place; the environment plays it
            (``env.set_decoder(chain)``). Only these of it are part of the parameters and state.
        steering_network: psi(w | s, z), which is not learned.
        qvalue_network: reads what psi reads and ``executed_chunk``, and writes ``[*B, E]``.
        decoder: of that environment; no part of the parameters and state.
        clip: alpha, in the denoiser's units.
        cfm_coef: lambda.
        noise: w of a chunk: ``played`` reads what it was decoded from, so that each noise, and so
            each code, goes on leading to what it led to; ``independent`` draws it from N(0, I), as
            QF3 does, for transitions that know no noise.
        **options: of :class:`~modereg.objectives.ReplayLoss`; ``kl_coef`` is beta.

    Raises:
        ConfigurationError: if an option is out of range.
    """

    @dataclass
    class _AcceptedKeys(ChunkReplayLoss._AcceptedKeys):
        """Keys that :meth:`set_keys` accepts.

        The action is the noise that was decoded, ``("next", "noise")`` where a basis made it.
        """

        chunk: NestedKey = keys.CHUNK

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    tuned: nn.Module

    def __init__(
        self,
        chain: DenoisingChain,
        steering_network: SteeringPolicy,
        qvalue_network: TensorDictModuleBase,
        decoder: ChunkDecoder,
        *,
        clip: float = 0.3,
        cfm_coef: float = 0.05,
        noise: Noise = "played",
        **options: Any,
    ) -> None:
        super().__init__(steering_network, qvalue_network, decoder, **options)
        if not 0.0 < clip < float("inf"):
            raise ConfigurationError(f"expected clip above 0 and finite, got {clip}")
        if not 0.0 <= cfm_coef < float("inf"):
            raise ConfigurationError(f"expected cfm_coef of at least 0 and finite, got {cfm_coef}")
        if noise not in ("played", "independent"):
            raise ConfigurationError(f"expected noise 'played' or 'independent', got {noise!r}")
        self.__dict__["_chain"] = chain
        self.tuned = chain.tuned
        self.clip, self.cfm_coef, self.noise = clip, cfm_coef, noise

    @property
    def chain(self) -> DenoisingChain:
        """Whose trained weights learn."""
        return self.__dict__["_chain"]

    def _read_keys(self) -> list[NestedKey]:
        accepted = self.tensor_keys
        played = [accepted.action] if self.noise == "played" else []
        return [*super()._read_keys(), in_next(accepted.chunk), *played]

    def _written_keys(self) -> list[NestedKey]:
        return [*super()._written_keys(), "loss_cfm", "clipped"]

    def actor_loss(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Return what :meth:`anchored` does of transitions; no critic gets a gradient of it.

        ``loss_cfm`` is the weighted error of the velocity, which is a part of ``loss_actor``, and
        ``clipped`` the share of the numbers of d beyond the clip.
        """
        chain, accepted, reader = self.chain, self.tensor_keys, type(self).__name__
        observed = [require(data, key, reader) for key in chain.observation_entries(data)]
        played = require(data, in_next(accepted.chunk), reader)
        chunk = chain.normalised(self.decoder.unmoved(data, played))
        independent = self.noise == "independent"
        noise = torch.randn_like(chunk) if independent else require(data, accepted.action, reader)
        last = chain.first + chain.steps
        step = torch.randint(chain.first, last, (len(chunk),), device=chunk.device)
        mixed = chain.path.mixed(chunk, noise, step)
        predicted = chain.predicted(mixed, step, *observed)
        rate = at(chain.path.rates, step, chunk)
        error = rate * (predicted - chunk)
        away = rate * (predicted - chain.base_predicted(mixed, step, *observed))

        left = 1.0 - at(chain.path.times, step, chunk)
        led_to = chunk + left * error.clamp(-self.clip, self.clip)
        moved = played + chain.physical(led_to) - chain.physical(chunk)
        gain = self.climb(self.qvalue_network, data, self.decoder.executed(moved))
        matching = self.cfm_coef * _half_square(error)
        losses = self.anchored(gain + matching, _half_square(away))
        clipped = (error.detach().abs() > self.clip).to(error.dtype).mean()
        return losses | {"loss_cfm": matching.detach(), "clipped": clipped}


def _half_square(rows: Tensor) -> Tensor:
    """Return half of the mean squared length of rows ``[n, H, A]``."""
    return 0.5 * rows.square().flatten(1).sum(1).mean()
