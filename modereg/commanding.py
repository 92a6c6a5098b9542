"""For a robot, or a simulator of one's own: a base policy that does as its code says."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from modereg import keys
from modereg.checkpoints import Adapter, load_adapter
from modereg.devices import module_device
from modereg.errors import ShapeError
from modereg.estimators import check_support
from modereg.modes import find_mode, modes_of
from modereg.policies import GenerativePolicy, freeze
from modereg.priors import CategoricalPrior
from modereg.reading import require
from modereg.transforms import NoiseAction

__all__ = ["CommandedPolicy"]


class CommandedPolicy(TensorDictModuleBase):
    r"""A base policy behind what was learned to steer it: observations in, a chunk out.

    :math:`a = f(s, w), w \sim \psi(\cdot | s, z)`, with the residual and with trained weights if
    there are any. It is what is played in the steered environment, without the environment: no
    transform, no history, no q. Where each action is moved when it is played, :meth:`corrected`
    does that.

    Args:
        base: the base policy, which is frozen here.
        adapter: what was learned on it, or the folder of a run of ``discover`` or ``finetune``.
        code: the code that is commanded, so that one behaviour is shipped, or the name of a mode,
            of which it is the code that is drawn most; None reads it, so that it can be another one
            in each episode, unless there is a single mode left to draw.
        deterministic: whether the mean noise is decoded, which succeeds more often; False draws
            from psi. Codes that play the base, and what a noise basis leaves out, are drawn in
            both cases.
        latent_key: entry of the codes that are read, ``[*B]`` int64.
        chunk_key: entry of the chunk that is written, ``[*B, H, A]``.

    Attributes:
        played: which actions of a chunk are to be played before the next decision.
        modes: what can be commanded, a :class:`~modereg.modes.Mode` each.

    Raises:
        ConfigurationError: if the adapter's codes are not numbers, or ``code`` is none of them, or
            its mode was dropped.
        CheckpointError: if the run has no adapter, or the adapter is another base's.
    """

    def __init__(
        self,
        base: GenerativePolicy,
        adapter: Adapter | Path | str,
        code: int | str | None = None,
        *,
        deterministic: bool = True,
        latent_key: NestedKey = keys.LATENT,
        chunk_key: NestedKey = keys.CHUNK,
    ) -> None:
        super().__init__()
        if isinstance(adapter, Adapter):
            adapter.check_base(base)
        else:
            adapter = load_adapter(Path(adapter) / "adapter", base)
        layout, prior = adapter.layout.for_policy(base), adapter.prior
        self.modes = tuple(mode for mode in modes_of(adapter) if mode.share > 0.0)
        if code is None and len(self.modes) == 1:
            code = self.modes[0].name
        if code is not None:
            mode = find_mode(self.modes, code)
            code = mode.code if isinstance(code, str) else code
        self.code, self.deterministic = code, deterministic
        self.prior = CategoricalPrior(cast(CategoricalPrior, prior).probs)
        self.latent_key, self.chunk_key = latent_key, chunk_key
        self.played = slice(layout.offset, layout.offset + layout.played)
        chain = adapter.chain(freeze(base))
        if chain is not None and chain.codes is not None and code is not None:
            chain = freeze(chain.fixed(code))  # what is exported as a policy, exactly
        self.base: GenerativePolicy = chain or base
        self.steering, self.residual = adapter.steering, adapter.residual
        self.step_residual = adapter.step_residual
        for part in (self.steering, self.residual, self.step_residual):
            if part is not None:
                part.requires_grad_(False)
        self._noise = NoiseAction(base, layout.noise_basis)
        seen = [*base.steered_entries, *self.steering.observation_keys]
        self._observed = list(dict.fromkeys(seen))
        self.in_keys = [*self._observed, *([latent_key] if code is None else [])]
        self.out_keys = [chunk_key]

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the chunk.

        Args:
            tensordict: what the base and the steering policy read, ``[*B]``; of a base that reads
                several observations their stacks ``[*B, S, ...]``, oldest first, under the keys of
                the observations, or as the steered environment has them, under
                ``("stacked", key)`` with the newest beside them.

        Raises:
            KeyMismatchError: if an entry is missing.
            ShapeError: if a stack is of another number of observations.
            ConfigurationError: if a code is none of the prior's.
        """
        return tensordict.set(self.chunk_key, self.decode(tensordict))

    @torch.no_grad()
    def decode(self, tensordict: TensorDictBase) -> Tensor:
        """Return the chunk, ``[*B, H, A]``; see :meth:`forward`."""
        shape, steering = tensordict.batch_size, self.steering
        tensordict = self._with_stacks(tensordict)
        for key in self._observed:
            require(tensordict, key, "the commanded policy")
        rows, codes = self._with_code(tensordict, self._observed)
        dist = steering.distribution(rows)
        action, steered = dist.deterministic_sample, steering.head.steered[codes] > 0
        if not self.deterministic:
            action = dist.sample()
        elif not bool(steered.all()):
            action = torch.where(steered.view(-1, *[1] * (action.ndim - 1)), action, dist.sample())
        chunk = self.base.decode_from(rows, self._noise.lift(action))
        if self.residual is not None:
            chunk = self.residual(rows, chunk)
        chunk = chunk.reshape(*shape, *chunk.shape[1:])
        return chunk if tensordict.device is None else chunk.to(tensordict.device)

    @torch.no_grad()
    def corrected(self, tensordict: TensorDictBase, action: Tensor) -> Tensor:
        """Return what is to be played now in the place of an action of a chunk, ``[*B, A]``.

        It differs where the run moves each action when it is played (``finetune resip`` and
        ``resfit``): call it before each of the actions in :attr:`played`.

        Args:
            tensordict: what is observed now, ``[*B]``, and the code unless it is fixed.
            action: of the chunk, ``[*B, A]``, within the bounds of what can be played.

        Returns:
            Not clipped to these bounds.

        Raises:
            KeyMismatchError: if an entry is missing.
        """
        residual = self.step_residual
        if residual is None:
            return action
        observed = [key for key in residual.network.observation_keys if key != residual.base_key]
        for key in observed:
            require(tensordict, key, "the commanded policy")
        rows, _ = self._with_code(tensordict, observed)
        return residual.move(rows, action.reshape(len(rows), -1)).reshape(action.shape)

    def _with_code(
        self, tensordict: TensorDictBase, observed: list[NestedKey]
    ) -> tuple[TensorDictBase, Tensor]:
        """Return observations of rows ``[n]`` with the code's features, and the codes."""
        rows = tensordict.select(*observed).reshape(-1).to(module_device(self.steering))
        codes = self._codes(tensordict).reshape(-1).to(rows.device)
        one_hot = torch.nn.functional.one_hot(codes, self.prior.num_codes).float()
        return rows.set(self.steering.latent_key, one_hot), codes

    def _with_stacks(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return observations with the stacks where the steered environment has them."""
        stacks = dict(zip(self.base.steered_entries, self.base.observation_keys, strict=True))
        missing = {
            entry: key
            for entry, key in stacks.items()
            if entry != key and tensordict.get(entry, None) is None
        }
        found = tensordict.clone(False) if missing else tensordict
        steps, depth = self.base.observation_steps, tensordict.ndim
        for entry, key in missing.items():
            stack = require(tensordict, key, "the commanded policy")
            if stack.ndim <= depth or stack.shape[depth] != steps:
                raise ShapeError(
                    f"expected {key!r} of shape [*B, {steps}, ...], the {steps} last observations, "
                    f"got {tuple(stack.shape)}"
                )
            found.set(entry, stack).set(key, stack.select(depth, -1))
        return found

    def _codes(self, tensordict: TensorDictBase) -> Tensor:
        if self.code is not None:
            return torch.full(tensordict.batch_size, self.code, device=tensordict.device)
        codes = require(tensordict, self.latent_key, "the commanded policy")
        if codes.shape != tensordict.batch_size:
            raise ShapeError(
                f"expected codes of shape {tuple(tensordict.batch_size)} under "
                f"{self.latent_key!r}, got {tuple(codes.shape)}"
            )
        check_support(self.prior, codes, self.latent_key)
        return codes.long()
