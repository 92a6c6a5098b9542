"""Any ManiSkill task as a TorchRL environment: one, several in one process, or a GPU batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError
from modereg.keys import ACTION, OBSERVATION, REWARD
from modereg_integrations.maniskill.simulation import (
    camera_options,
    make_simulation,
    registered_limit,
    render_rows,
)
from modereg_integrations.maniskill.spaces import (
    Leaves,
    action_boxes,
    choose,
    draw_seeds,
    info_specs,
    join,
    observation_specs,
    read,
)

if TYPE_CHECKING:
    from modereg_integrations.maniskill.fast.path import FastPath

__all__ = ["ManiSkillEnv"]

_DONE_KEYS = ("done", "terminated", "truncated")
_STEPS = "elapsed_steps"


class ManiSkillEnv(EnvBase):
    """A ManiSkill task with batch size ``[num_envs]``, reset by mask and never by itself.

    Entries: the action ``[N, A]`` (several robots' actions side by side); ``observation``
    ``[N, O]``, or nested under ``"observation"`` for other observation modes than ``"state"``;
    ``success`` ``[N, 1]`` bool and ``mode`` ``[N, 1]`` int64, where the task's info has them;
    ``reward``, ``terminated``, ``truncated`` and ``done`` ``[N, 1]``. A row that is done stays
    where it is, at reward 0, until it is reset.

    On the CPU each row is a simulation of its own, all in this process, which on few cores is
    faster than one process a row. On a GPU one simulation holds all rows. Every reset draws its
    seed from a generator that :meth:`set_seed` seeds, so trajectories depend on that seed and the
    actions alone, whatever else draws random numbers. A closed environment opens again at its next
    reset.

    Args:
        env_id: the id under which the task is registered, such as ``"PickCube-v1"``.
        num_envs: number of rows ``N``.
        obs_mode: ``"state"``, ``"state_dict"``, ``"rgb"`` or another that the task knows.
        reward_mode: ``"sparse"``, ``"dense"``, ``"normalized_dense"`` or ``"none"``; None: the
            task's default.
        control_mode: such as ``"pd_ee_delta_pos"``; None: the robot's default.
        max_steps: steps after which ``truncated`` is reported; ``"registered"`` takes the task's
            own limit, None leaves the limit to a transform.
        sim_backend: ``"physx_cpu"`` or ``"physx_cuda"``.
        info_keys: entries of the task's info that become observation entries of the same name.
        seed: first seed; None draws one from the operating system.
        device: device of all tensors; None: the simulation's.
        fast: on the CPU, take ManiSkill's fast path, see
            :class:`~modereg_integrations.maniskill.fast.path.FastPath`: the same trajectories in a
            fraction of the time. ``"auto"``: where it applies.
        render_size: height and width of :meth:`render_frames` in pixels, one number for both; None:
            the task's.
        options: further keyword arguments of the task's constructor.

    Raises:
        MissingDependencyError: if ManiSkill is not installed.
        MissingDeviceError: if there is no usable Vulkan device.
        ConfigurationError: for an unknown task, info entry or number of rows, a task whose actions
            are no boxes, or one whose robot or controller the fast path does not know.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        *,
        obs_mode: str = "state",
        reward_mode: str | None = None,
        control_mode: str | None = None,
        max_steps: int | Literal["registered"] | None = "registered",
        sim_backend: Literal["physx_cpu", "physx_cuda"] = "physx_cpu",
        info_keys: Sequence[str] = (),
        seed: int | None = None,
        device: torch.device | str | None = None,
        fast: bool | Literal["auto"] = False,
        render_size: int | tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        if num_envs < 1:
            raise ConfigurationError(f"ManiSkillEnv needs num_envs >= 1, got {num_envs}.")
        self._env_id, self._info_keys = env_id, tuple(info_keys)
        modes = {"obs_mode": obs_mode, "reward_mode": reward_mode, "control_mode": control_mode}
        given = {key: value for key, value in modes.items() if value is not None}
        options = camera_options(options, render_size)
        self._options, self._fast = {"sim_backend": sim_backend, **given, **options}, fast
        self._widths = [num_envs] if sim_backend == "physx_cuda" else [1] * num_envs
        ends = list(accumulate(self._widths, initial=0))
        self._slices = [slice(*pair) for pair in pairwise(ends)]
        self._sims: list[Any] = self._open()
        self._generators = [torch.Generator() for _ in self._widths]
        super().__init__(device=device or self._sims[0].device, batch_size=[num_envs])
        self.max_steps = registered_limit(env_id) if max_steps == "registered" else max_steps
        self._make_specs()
        self._set_seed(seed)

    def _open(self) -> list[Any]:
        self._last: Leaves = {}
        self._paths: list[FastPath] = []
        sims = [make_simulation(self._env_id, width, self._options) for width in self._widths]
        if self._fast:
            from modereg_integrations.maniskill.fast.path import FastPath, obstacle

            if self._fast is True or obstacle(sims[0]) is None:
                self._paths = [FastPath(sim) for sim in sims]
        return sims

    def _make_specs(self) -> None:
        sim, batch = self._sims[0], self.batch_size
        boxes = action_boxes(sim.single_action_space, self._env_id)
        self._robots = {name: box.shape[0] for name, box in boxes.items()}
        low, high = (
            torch.cat([torch.as_tensor(getattr(box, end)).float() for box in boxes.values()])
            for end in ("low", "high")
        )
        self.action_spec = Bounded(
            low.expand(*batch, -1), high.expand(*batch, -1), device=self.device
        )
        self.reward_spec = Unbounded((*batch, 1), device=self.device)
        flag = Binary(shape=(*batch, 1), dtype=torch.bool, device=self.device)
        self.done_spec = Composite(dict.fromkeys(_DONE_KEYS, flag), shape=batch, device=self.device)
        specs = observation_specs(sim.single_observation_space, OBSERVATION)
        specs |= info_specs(sim.get_info(), self._info_keys, self._env_id)
        self._dtypes = {key: spec.dtype for key, spec in specs.items()}
        self.observation_spec = Composite(shape=batch, device=self.device)
        for key, spec in specs.items():
            self.observation_spec[key] = spec.expand(*batch, *spec.shape).to(self.device)

    def _set_seed(self, seed: int | None) -> None:
        master = torch.Generator()
        master.manual_seed(master.seed() if seed is None else seed)
        for generator in self._generators:
            generator.manual_seed(draw_seeds(master, 1)[0])

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDictBase:
        if not self._sims:
            self._sims = self._open()
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is None or not self._last:
            mask = torch.ones(*self.batch_size, 1, dtype=torch.bool, device=self.device)
        mask = mask.reshape(-1, 1)
        new = join([self._restart(index, mask[rows]) for index, rows in enumerate(self._slices)])
        false = torch.zeros_like(mask, device=self.device)
        new |= dict.fromkeys(_DONE_KEYS, false) | {REWARD: false.float(), _STEPS: false.long()}
        self._last.update(choose(mask.to(self.device), new, self._last) if self._last else new)
        return self._show([*self._dtypes, *_DONE_KEYS])

    def _restart(self, index: int, mask: Tensor) -> Leaves:
        """Reset the rows of one simulation that ``mask`` ``[rows, 1]`` names; what all show."""
        if not mask.any():
            return self._rows(index, self._dtypes)
        sim, seeds = self._sims[index], draw_seeds(self._generators[index], len(mask))
        options = {} if mask.all() else {"env_idx": mask.view(-1).nonzero().view(-1).to(sim.device)}
        obs, info = sim.reset(seed=seeds, options=options)
        return read(obs, info, self._dtypes, self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        last, action = self._last, tensordict[ACTION]
        stopped: list[bool] = last["done"].view(-1).tolist()
        still = {**last, REWARD: torch.zeros_like(last[REWARD])} if any(stopped) else last
        if not all(stopped):
            new = join(
                [
                    self._rows(index, [*self._dtypes, REWARD, "terminated"])
                    if all(stopped[rows])
                    else self._advance(self._sims[index], action[rows])
                    for index, rows in enumerate(self._slices)
                ]
            )
            self._count(new)
            still = choose(last["done"], still, new) if any(stopped) else new
        last.update(still)
        return self._show([*self._dtypes, REWARD, *_DONE_KEYS])

    def _advance(self, sim: Any, action: Tensor) -> Leaves:
        """One step of the rows ``[rows, A]`` of one simulation."""
        obs, reward, terminated, _, info = sim.step(self._split(action.to(sim.device)))
        new = read(obs, info, self._dtypes, self.device)
        new[REWARD] = reward.to(self.device, torch.float32).reshape(-1, 1)
        new["terminated"] = terminated.to(self.device, torch.bool).reshape(-1, 1)
        return new

    def _count(self, new: Leaves) -> None:
        """Add the elapsed steps and what follows from them."""
        new[_STEPS] = self._last[_STEPS] + 1
        new["truncated"] = torch.zeros_like(new["terminated"])
        if self.max_steps is not None:
            new["truncated"] = new[_STEPS] >= self.max_steps
        new["done"] = new["terminated"] | new["truncated"]

    def _split(self, action: Tensor) -> Tensor | dict[str, Tensor]:
        """The action of one robot as it is, that of several as one entry a robot."""
        if len(self._robots) == 1:
            return action
        parts = action.split(list(self._robots.values()), dim=-1)
        return dict(zip(self._robots, parts))

    def _rows(self, index: int, keys: Iterable[NestedKey]) -> Leaves:
        """What the rows of one simulation showed last."""
        return {key: self._last[key][self._slices[index]] for key in keys}

    def _show(self, keys: Iterable[NestedKey]) -> TensorDict:
        shown = {key: self._last[key].clone() for key in keys}
        return TensorDict(shown, batch_size=self.batch_size, device=self.device)

    def render_frames(self) -> Tensor:
        """Pictures ``[N, H, W, 3]`` uint8 on the CPU of all rows as they are.

        Seen by the task's camera for people, of the size ``render_size``. Trajectories are the
        same with and without. On the CPU a row that is done is seen where it stopped.

        Raises:
            ConfigurationError: if the task has no such camera, or before the first reset.
        """
        if not self._last:
            raise ConfigurationError("render_frames needs an environment that was reset before.")
        return torch.cat([render_rows(sim) for sim in self._sims])

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the simulations; the next reset opens new ones."""
        for path in self._paths:
            path.remove()
        for sim in self._sims:
            sim.close()
        self._sims, self._paths = [], []
        self._last.clear()
        super().close(raise_if_closed=raise_if_closed)
