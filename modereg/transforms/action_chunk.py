"""Open-loop execution of action chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, Transform
from torchrl.envs.transforms import TransformedEnv

from modereg import keys
from modereg._torchrl import Stepper, inner_transforms, workers
from modereg.errors import ConfigurationError, ShapeError
from modereg.suggestions import with_shape_suggestion
from modereg.transforms._action_specs import chunk_spec, clip_to, single_action
from modereg.transforms._attaching import check_attached, check_order
from modereg.transforms._common import any_flag, require, transforms_within
from modereg.transforms._decision import Decision
from modereg.transforms._vector_gym import check_terminal_observations, restarted_rows

__all__ = ["ActionChunk", "Mover"]

_WINDOW, _CLIPPED = "_modereg_window", "_modereg_clipped_window"


class Mover(Protocol):
    """What may move an action when it is played, as :class:`~modereg.residual.StepResidual`."""

    def __call__(self, state: TensorDictBase, action: Tensor, index: int) -> Tensor:
        """Return what is played instead, ``[*B, A]``, before it is clipped.

        Args:
            state: entries as they are now, ``[*B]``, of which it writes none.
            action: of the chunk, clipped, ``[*B, A]``.
            index: number of the step in its decision.
        """


class ActionChunk(Transform):
    """Makes a decision of a whole action chunk, of which a part is played open loop.

    The action becomes ``[*B, horizon, A]``; its actions ``offset`` to ``offset + execute - 1`` are
    clipped to the environment's spec and played. Sub-environments that end within the chunk keep
    the data of their last step; the rest of the chunk is not played, or its data are ignored.
    Everything below this transform (step counters, :class:`~modereg.transforms.TimeLimit`) sees
    single environment steps, everything above it sees decisions.

    An environment class with the attribute ``finished_rows_stay = True`` promises that its finished
    rows repeat their last entries with reward 0 whatever they are told, and spares the masking.

    Each step sees the root of the decision with the entries of the step before in place of its own,
    as a rollout of single steps would have it, and an action of its own, which it may change; so
    does what :meth:`set_mover` lets move each action then.

    The reward becomes the sum of ``gamma ** i`` times the reward of played action ``i``. Further
    entries are written into ``next`` (zeros at reset):

    - ``steps_key``: ``[*B, 1]`` int64, environment steps of the decision. TorchRL's value
      estimators raise their discount to the entry of this name *at the root*: rollouts and
      collectors have it there; after a bare ``env.step``, and with the transform inside the
      workers of a ``ParallelEnv``, use ``set_keys(steps_to_next_obs=("next", steps_key))``, which
      is right everywhere.
    - ``executed_key``: ``[*B, execute, A]``, the window after clipping, of which the first
      ``steps_key`` actions were played, as they were moved.
    - ``clipped_key``: ``[*B, 1]`` in [0, 1], share of the components of the window, as far as it
      was played, that had to be clipped.

    Args:
        execute: actions that are played.
        offset: actions that are skipped first (``n_obs_steps - 1`` in diffusion policies).
        gamma: discount per environment step within the chunk.
        horizon: length H of the chunk; None means ``offset + execute``.
        action_key: entry of the action.
        reward_key: entry of the reward.
        steps_key: see above.
        executed_key: see above; None leaves the entry out.
        clipped_key: see above.
        success_key: entry that says whether the task is solved, if the environment has it.
        success: when an episode has succeeded: ``"once"`` the environment has said so at any of its
            steps, as Metaworld and ManiSkill's ``success_once`` count it, also within a chunk; or
            if it says so ``"at_end"``, in the last step. None takes the attribute
            ``success_counts`` of the environment, and ``"once"`` where it has none.

    Raises:
        ConfigurationError: for an option out of range; on attaching, for a discrete action, for
            entries of the environment that it would replace, and for transforms in an order that
            changes what they mean; at reset, for such transforms outside of it or in workers, if an
            environment is done already, or Gymnasium vector environments sit inside workers.
        ShapeError: if the layout does not fit itself; on attaching, if the action is not
            ``[*B, A]``; in a step, if the chunk is not ``[*B, horizon, A]``.
        TerminalObservationError: on attaching, if the environment loses the observation in which an
            episode ended.
    """

    def __init__(
        self,
        execute: int,
        offset: int = 0,
        gamma: float = 1.0,
        horizon: int | None = None,
        *,
        action_key: NestedKey = keys.ACTION,
        reward_key: NestedKey = keys.REWARD,
        steps_key: NestedKey = keys.STEPS,
        executed_key: NestedKey | None = keys.EXECUTED,
        clipped_key: NestedKey = keys.CLIPPED,
        success_key: NestedKey = keys.SUCCESS,
        success: Literal["once", "at_end"] | None = None,
    ) -> None:
        super().__init__()
        horizon = offset + execute if horizon is None else horizon
        if execute < 1 or offset < 0 or horizon < offset + execute:
            raise ShapeError(
                "expected execute >= 1, offset >= 0 and horizon >= offset + execute, got "
                f"execute={execute}, offset={offset}, horizon={horizon}"
            )
        if not 0.0 <= gamma <= 1.0:
            raise ConfigurationError(f"expected a discount in [0, 1], got {gamma}")
        self.execute, self.offset, self.gamma, self.horizon = execute, offset, gamma, horizon
        self.action_key, self.reward_key, self.steps_key = action_key, reward_key, steps_key
        self.executed_key, self.clipped_key = executed_key, clipped_key
        if success not in (None, "once", "at_end"):
            raise ConfigurationError(f"expected success of 'once' or 'at_end', got {success!r}")
        self.success_key, self.success = success_key, success
        self.__dict__["_moving"] = {"mover": None, "rewarded": None}  # shared by clones
        self._forget_layout()

    @property
    def mover(self) -> Mover | None:
        """What moves each action, None if nothing does."""
        return self.__dict__["_moving"]["mover"]

    def set_mover(
        self, mover: Mover | None, rewarded: Callable[[Tensor], None] | None = None
    ) -> None:
        """Let this move each action from now on; None plays them as they are.

        Args:
            mover: is none of the submodules.
            rewarded: called after each decision with the rewards of its steps, ``[*B, n]``, 0 for
                rows that had ended before.
        """
        self.__dict__["_moving"].update(mover=mover, rewarded=rewarded)

    # --- attaching

    def _forget_layout(self) -> None:
        self.__dict__.update(
            _spec=None,
            _done_keys=None,
            _latched=False,
            _rows=None,
            _steps=None,
            _rows_stay=False,
            _started=False,
        )

    def empty_cache(self) -> None:
        """Forget what is derived from the environment."""
        super().empty_cache()
        self._forget_layout()

    def set_container(self, container: Transform | EnvBase) -> None:
        """Attach the transform and check the environment."""
        super().set_container(container)
        self._forget_layout()
        if self.parent is None:
            return
        single_action(self.parent.full_action_spec, self.action_key)
        check_terminal_observations(self.parent)
        names = ("steps_key", "executed_key", "clipped_key")
        check_attached(self, {name: getattr(self, name) for name in names})
        if self.action_key in self.parent.full_observation_spec.keys(True, True):
            raise ConfigurationError(
                f"expected observations that leave {self.action_key!r} to the agent, got an "
                "environment with an observation of that name, which every action would replace; "
                "rename it (RenameTransform)"
            )

    def _layout(self) -> None:
        """Derive from the environment what every step needs, once."""
        inner, env = inner_transforms(self)
        flags = list(self.parent.done_keys)
        whole = [key for key in flags if (key if isinstance(key, str) else key[-1]) == "done"]
        check_terminal_observations(env, inner)
        whole_chain = self.container  # with what was attached outside since
        if isinstance(whole_chain, TransformedEnv):
            check_order(transforms_within(whole_chain))
        self.__dict__.update(
            _spec=single_action(self.parent.full_action_spec, self.action_key),
            _done_keys=whole or flags,
            _latched=self._latches(env),
            _rows=restarted_rows(env, inner),
            _steps=Stepper(env, inner),
            _rows_stay=not inner and getattr(type(env), "finished_rows_stay", False),
        )

    def _latches(self, env: EnvBase | None) -> bool:
        """Return whether there is a success that one step of an episode is enough for."""
        counts = self.success
        if counts is None:
            counts = vars(env).get("success_counts", getattr(type(env), "success_counts", "once"))
        entries = self.parent.full_observation_spec.keys(True, True)
        return counts == "once" and self.success_key in entries

    def _succeeded(self, root: TensorDictBase, after: TensorDictBase) -> Tensor | None:
        """Return whether rows have succeeded in this episode, None where that is not kept."""
        if not self._latched:
            return None
        before, now = root.get(self.success_key, None), after.get(self.success_key)
        return now.clone() if before is None else torch.maximum(before, now)

    def _look_into_workers(self) -> None:
        """Check the workers of a SerialEnv, which exist from its first reset on, once."""
        if not self._started:
            inner, env = inner_transforms(self)
            check_terminal_observations(env, inner)
            for worker in workers(env):
                check_order([*transforms_within(worker), self])
            self.__dict__.update(_rows=restarted_rows(env, inner), _started=True)

    # --- a decision

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self.parent is None:
            return tensordict
        if self._spec is None:
            self._layout()
        chunk = require(tensordict, self.action_key, repr(self))
        expected = (*tensordict.batch_size, self.horizon, self._spec.shape[-1])
        if tuple(chunk.shape) != expected:
            sentence = (
                f"expected a chunk of shape {expected} (batch, horizon, action dimensions) under "
                f"{self.action_key!r}, got {tuple(chunk.shape)}; give ActionChunk the horizon that "
                "the policy decodes"
            )
            raise ShapeError(with_shape_suggestion(sentence, chunk.shape, expected))
        window = chunk.narrow(-2, self.offset, self.execute)
        tensordict.set(_WINDOW, window)
        played = clip_to(self._spec, window)
        tensordict.set(_CLIPPED, played if self.mover is None else played.clone())
        first = self._moved(tensordict, tensordict.get(_CLIPPED), 0)
        return tensordict.set(self.action_key, first.clone())  # the environment may change it

    def _moved(self, state: TensorDictBase, played: Tensor, index: int) -> Tensor:
        """Return the action of a step, ``[*B, A]``, which is written into ``[*B, execute, A]``."""
        action = played.select(-2, index)
        if self.mover is not None:
            moved = self.mover(state, action.clone(), index).unsqueeze(-2)
            action.copy_(clip_to(self._spec, moved).squeeze(-2))
        return action

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        played = tensordict.get(_CLIPPED)
        decision = Decision(self, tensordict, next_tensordict)
        for index in range(1, self.execute):
            if decision.over:
                break
            decision.play(played, index)
        decision.settle()
        return self._report(tensordict, decision)

    def _report(self, tensordict: TensorDictBase, decision: Decision) -> TensorDictBase:
        window, played = tensordict.get(_WINDOW), tensordict.get(_CLIPPED)
        counted = torch.arange(self.execute, device=window.device) < decision.steps
        within = played if self.mover is None else clip_to(self._spec, window)
        share = (window != within).to(window.dtype).mean(-1) * counted
        out = decision.latest
        out.set(self.reward_key, decision.reward)
        out.set(self.steps_key, decision.steps)
        if decision.success is not None:
            out.set(self.success_key, decision.success)
        out.set(self.clipped_key, share.sum(-1, keepdim=True) / decision.steps)
        return out if self.executed_key is None else out.set(self.executed_key, played)

    def _post_step_mdp_hooks(
        self, tensordict: TensorDictBase, tensordict_: TensorDictBase
    ) -> tuple[TensorDictBase, TensorDictBase]:
        """Write the steps of the decision at its root, where value estimators look for them."""
        tensordict.set(self.steps_key, tensordict.get(("next", self.steps_key)))
        return tensordict, tensordict_

    # --- resets and specs

    def _reset_env_preprocess(self, tensordict: TensorDictBase | None) -> TensorDictBase | None:
        if self._spec is None:
            self._layout()
        if self._rows is not None and (tensordict is None or "_reset" not in tensordict):
            self._rows.forget()
        return tensordict

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        self._look_into_workers()
        done = any_flag(tensordict_reset, self._done_keys)
        mask = tensordict.get("_reset", None)
        done = done if mask is None else done & mask.reshape(done.shape)
        if bool(done.any()):
            raise ConfigurationError(
                f"expected environments that are not done at reset, got {int(done.sum())} of "
                f"{done.numel()} that are; an episode needs at least one step"
            )
        for key, (shape, dtype) in self._entries(tensordict_reset.batch_size).items():
            tensordict_reset.set(key, torch.zeros(shape, dtype=dtype, device=done.device))
        return tensordict_reset

    def _entries(self, batch: torch.Size) -> dict[NestedKey, tuple[torch.Size, torch.dtype]]:
        """Return shape and type of what this transform writes beside the reward."""
        entries = {self.steps_key: (torch.Size((*batch, 1)), torch.int64)}
        entries[self.clipped_key] = (torch.Size((*batch, 1)), self._spec.dtype)
        if self.executed_key is not None:
            shape = torch.Size((*batch, self.execute, self._spec.shape[-1]))
            entries[self.executed_key] = (shape, self._spec.dtype)
        return entries

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the tensordict as it is: in a replay buffer decisions are data."""
        return tensordict

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Add the steps, the executed window and the clipped share."""
        if self._spec is None:
            self._layout()
        device = observation_spec.device
        for key, (shape, dtype) in self._entries(observation_spec.shape).items():
            observation_spec[key] = Unbounded(shape, dtype=dtype, device=device)
        return observation_spec

    def transform_action_spec(self, action_spec: Composite) -> Composite:
        """Make the action a chunk ``[*B, horizon, A]``."""
        action = single_action(action_spec, self.action_key)
        action_spec[self.action_key] = chunk_spec(action, self.horizon)
        return action_spec

    def __repr__(self) -> str:
        """Name the layout of the chunk."""
        return (
            f"ActionChunk(execute={self.execute}, offset={self.offset}, gamma={self.gamma}, "
            f"horizon={self.horizon})"
        )
