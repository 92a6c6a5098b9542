r"""Twin distributional critics, one pair a slot: one that explores, and one of each mode."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modereg import functional
from modereg.errors import ConfigurationError, ShapeError
from modereg.networks import Ensemble, FourierFeatures

__all__ = ["TWINS", "ModeCritics"]

TWINS = 2
"""Critics of a slot, the lower of which counts (arXiv 1802.09477)."""


class ModeCritics(nn.Module):
    r"""Q of each slot as a categorical distribution (C51, arXiv 1707.06887), and their targets.

    Slot 0 explores, on the intrinsic reward alone; slot m is mode m's. All are evaluated at once,
    each on rows of its own.

    Args:
        state_dim: length S of a state.
        action_dim: length C of what is done, in [-1, 1].
        slots: their number G.
        atoms: N of a distribution.
        hidden: widths.
        octaves: of the :class:`~modereg.networks.FourierFeatures` of states.

    Raises:
        ConfigurationError: if there is no slot, or a single atom.
    """

    atoms: Tensor

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        slots: int = 1,
        *,
        atoms: int = 51,
        hidden: Sequence[int] = (128, 128),
        octaves: int = 3,
    ) -> None:
        super().__init__()
        if slots < 1 or atoms < 2:
            raise ConfigurationError(
                f"expected at least one slot and two atoms, got {slots} and {atoms}"
            )
        self.slots, self.action_dim = slots, action_dim
        self.features = FourierFeatures(state_dim, octaves)
        widths = [self.features.out_features + action_dim, *hidden, atoms]
        self.networks = Ensemble(TWINS * slots, widths, layer_norm=True)
        self.targets = copy.deepcopy(self.networks).requires_grad_(False)
        self.register_buffer("atoms", torch.linspace(0.0, 1.0, atoms).repeat(slots, 1))

    # --- the support

    def set_support(self, slot: int, low: float, high: float) -> None:
        """Let a slot's atoms span [low, high].

        Raises:
            ConfigurationError: if that is no interval.
        """
        if not low < high < float("inf") or low == -float("inf"):
            raise ConfigurationError(
                f"expected a support that begins below its end, got {low} to {high}"
            )
        self.atoms[slot] = torch.linspace(low, high, self.atoms.shape[-1])

    def covers(self, slot: int, values: Tensor) -> bool:
        """Whether a slot's support holds all of some values, of any shape."""
        atoms = self.atoms[slot]
        return bool(((values >= atoms[0]) & (values <= atoms[-1])).all())

    # --- values

    def probs(self, states: Tensor, actions: Tensor, *, target: bool = False) -> Tensor:
        """Return distributions of each slot's rows.

        Args:
            states: ``[G, n, S]``.
            actions: ``[G, n, C]``.
            target: whether the target networks are asked.

        Returns:
            ``[2, G, n, N]``.
        """
        return self._logits(states, actions, target).softmax(-1)

    def value(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the lower of the two means, ``[G, n]``."""
        means = functional.categorical_mean(self.probs(states, actions), self.atoms[:, None])
        return means.amin(0)

    def loss(self, states: Tensor, actions: Tensor, wanted: Tensor) -> Tensor:
        """Return the cross-entropy to distributions ``[G, n, N]``, a mean over all, in nats."""
        logits = self._logits(states, actions, False)
        return -(wanted * logits.log_softmax(-1)).sum(-1).mean()

    @torch.no_grad()
    def backup(self, rewards: Tensor, discounts: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        r"""Return the distribution of :math:`r + \gamma Z(s', a')`, projected, ``[G, n, N]``.

        Z is the whole distribution of the twin with the lower mean.

        Args:
            rewards: ``[G, n]``.
            discounts: of what comes after, 0 where the episode ended for good, ``[G, n]``.
            states: s', ``[G, n, S]``.
            actions: a', ``[G, n, C]``.
        """
        atoms = self.atoms[:, None]
        lower = functional.lower_categorical(self.probs(states, actions, target=True), atoms)
        places = rewards.unsqueeze(-1) + discounts.unsqueeze(-1) * atoms
        return functional.project_categorical(lower, places, atoms)

    @torch.no_grad()
    def update_targets(self, tau: float) -> None:
        """Move the target networks by tau towards the critics."""
        torch._foreach_lerp_(list(self.targets.parameters()), list(self.networks.parameters()), tau)

    def _logits(self, states: Tensor, actions: Tensor, target: bool) -> Tensor:
        if len(states) != self.slots or actions.shape[-1] != self.action_dim:
            raise ShapeError(
                f"expected rows of {self.slots} slots and actions of {self.action_dim} numbers, "
                f"got states {tuple(states.shape)} and actions {tuple(actions.shape)}"
            )
        x = torch.cat([self.features(states), actions], -1)
        networks = self.targets if target else self.networks
        x = x[None].expand(TWINS, *x.shape).flatten(0, 1)  # twin by twin, slots within
        return networks(x).unflatten(0, (TWINS, self.slots))

    # --- slots

    @torch.no_grad()
    def rearranged(self, sources: Sequence[int]) -> ModeCritics:
        """Return critics of which slot i begins as this one's slot ``sources[i]``.

        Raises:
            ConfigurationError: if there is no such slot.
        """
        if not sources or not all(0 <= source < self.slots for source in sources):
            raise ConfigurationError(
                f"expected slots of {self.slots} to begin at, got {list(sources)}"
            )
        made = copy.deepcopy(self)
        made.slots = len(sources)
        index = torch.tensor([twin * self.slots + s for twin in range(TWINS) for s in sources])
        for network in (made.networks, made.targets):
            for group in (network.weights, network.biases):
                for place, part in enumerate(group):
                    group[place] = nn.Parameter(
                        part[index.to(part.device)].clone(), requires_grad=part.requires_grad
                    )
        made.atoms = self.atoms[torch.tensor(sources)].clone()
        return made
