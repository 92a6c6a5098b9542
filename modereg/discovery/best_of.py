"""Commanding codes without training: of several decoded noises the one that its code wants."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from modereg import keys
from modereg.discovery.outcome import OutcomeModel
from modereg.errors import ConfigurationError, ShapeError
from modereg.layout import Layout
from modereg.policies import GenerativePolicy
from modereg.reading import require
from modereg.transforms import NoiseAction

__all__ = ["BestOf"]


class BestOf(TensorDictModuleBase):
    r"""Draws M noises from N(0, I), decodes all of them, and plays the one that its code wants.

    .. math::
        w = \arg\max_{w_1 \dots w_M \sim N(0, I)}
            \frac{1}{E} \sum_e \log Q_e(z \mid s, f(s, w_i), \text{base})

    It needs the base's episodes alone, to which Q is fitted; no policy is trained. In a steered
    environment it writes the noise, with a basis P its coordinates :math:`P^T w`; :meth:`decode`
    gives the chunk itself, for deployment.

    Args:
        policy: the base policy, frozen.
        outcome_model: Q, fitted.
        layout: which actions of a chunk are played, and the basis in which noise is steered.
        num_draws: M; with 1 it is the base.
        code: the code that is commanded; None reads its one-hot features.
        max_decodes: noises that are decoded at once, which bounds the memory of large batches.
        latent_key: entry of the code's one-hot features, ``[*B, K]``.
        action_key: entry of the noise that it writes.

    Raises:
        ConfigurationError: if an option is out of range, or the basis is not orthonormal.
        ShapeError: if layout, policy and outcome model do not fit each other.
    """

    basis: Tensor | None

    def __init__(
        self,
        policy: GenerativePolicy,
        outcome_model: OutcomeModel,
        layout: Layout,
        *,
        num_draws: int = 16,
        code: int | None = None,
        max_decodes: int = 4096,
        latent_key: NestedKey = keys.LATENT_FEATURES,
        action_key: NestedKey = keys.ACTION,
    ) -> None:
        super().__init__()
        layout = layout.for_policy(policy)
        _check_options(num_draws, code, max_decodes, outcome_model.num_codes)
        _check_played(layout, policy, outcome_model)
        self.policy, self.outcome_model = policy, outcome_model
        self.num_draws, self.code, self.max_decodes = num_draws, code, max_decodes
        self.latent_key, self.action_key = latent_key, action_key
        self.played = slice(layout.offset, layout.offset + layout.played)
        basis = NoiseAction(policy, layout.noise_basis).basis  # which checks it
        self.register_buffer("basis", basis, persistent=False)
        self.observed = list(
            dict.fromkeys([*policy.steered_entries, *outcome_model.observation_keys])
        )
        self.in_keys = self.observed + ([latent_key] if code is None else [])
        self.out_keys = [action_key]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the chosen noise, ``[*B, *noise_shape]``, or ``[*B, k]`` in a basis.

        Raises:
            KeyMismatchError: if an observation or the code's features are missing.
            ShapeError: if the features are not of K codes.
        """
        return tensordict.set(self.action_key, self._best(tensordict)[0])

    def decode(self, tensordict: TensorDictBase) -> Tensor:
        """Return the chosen chunk, ``[*B, H, A]``, for observations ``[*B]``, as they are given.

        Raises:
            KeyMismatchError: as :meth:`forward`.
            ShapeError: as :meth:`forward`.
        """
        return self._best(tensordict)[1]

    @torch.no_grad()
    def draw(self, rows: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
        """Draw M noises at each row, decode them, and ask Q about their chunks.

        Args:
            rows: observations, ``[n]``.

        Returns:
            Actions ``[n, M, *noise_shape]`` or ``[n, M, k]``, chunks ``[n, M, H, A]``, and log Q of
            each member where the base plays on, ``[E, n, M, K + 1]`` nats.
        """
        size = max(self.max_decodes // self.num_draws, 1)
        parts = [self._draw(rows[start : start + size]) for start in range(0, len(rows), size)]
        actions, chunks, log_prob = zip(*parts, strict=True)
        return torch.cat(actions), torch.cat(chunks), torch.cat(log_prob, 1)

    def _draw(self, rows: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
        size, model = (len(rows), self.num_draws), self.outcome_model
        wide = rows.unsqueeze(1).expand(size).reshape(-1)
        noise = self.policy.draw_noise_for(wide)
        action = noise if self.basis is None else noise.flatten(1) @ self.basis.to(noise)
        chunks = self.policy.decode_from(wide, noise)
        observed = model.observe(wide)
        features = model.chunk_features(observed, chunks[:, self.played].to(observed))
        players = torch.full_like(observed[:, 0], model.base, dtype=torch.int64)
        log_prob = model.log_prob(observed, features, players)
        return action.unflatten(0, size), chunks.unflatten(0, size), log_prob.unflatten(1, size)

    def _best(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return the chosen actions and chunks, batched as the tensordict is."""
        shape, codes = tensordict.batch_size, self._codes(tensordict).reshape(-1)
        rows = tensordict.select(*self.observed, strict=False).reshape(-1)
        actions, chunks, log_prob = self.draw(rows)
        place = codes.to(log_prob.device)[:, None, None].expand(-1, self.num_draws, 1)
        best = log_prob.mean(0).gather(-1, place).squeeze(-1).argmax(1)
        each = torch.arange(len(best), device=best.device)
        action, chunk = actions[each, best], chunks[each, best]
        return action.reshape(*shape, *action.shape[1:]), chunk.reshape(*shape, *chunk.shape[1:])

    def _codes(self, tensordict: TensorDictBase) -> Tensor:
        """Return the code of each row, ``[*B]``."""
        if self.code is not None:
            return torch.full(tensordict.batch_size, self.code, device=tensordict.device)
        features, num = require(tensordict, self.latent_key, "BestOf"), self.outcome_model.num_codes
        if features.shape[-1] != num:
            raise ShapeError(
                f"expected one-hot features of {num} codes, the outcome model's, under "
                f"{self.latent_key!r}, got {tuple(features.shape)}"
            )
        return features.argmax(-1)


def _check_options(num_draws: int, code: int | None, max_decodes: int, num_codes: int) -> None:
    if min(num_draws, max_decodes) < 1:
        raise ConfigurationError(
            f"expected num_draws and max_decodes of at least 1, got {num_draws} and {max_decodes}"
        )
    if code is not None and not 0 <= code < num_codes:
        raise ConfigurationError(f"expected a code in [0, {num_codes}), got {code}")


def _check_played(layout: Layout, policy: GenerativePolicy, model: OutcomeModel) -> None:
    """Check that the outcome model was fitted to chunks as they are played."""
    expected, got = layout.played * policy.chunk_shape[1], len(model.chunk_features.components)
    if got != expected:
        raise ShapeError(
            f"expected an outcome model of {layout.played} played actions of "
            f"{policy.chunk_shape[1]} dimensions, {expected} numbers, got one of {got}; fit it to "
            "episodes of this policy under this layout"
        )
