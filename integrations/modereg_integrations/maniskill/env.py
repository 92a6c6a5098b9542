"""Any ManiSkill task as a TorchRL environment: one, several in one process, or a GPU batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError, MissingDependencyError, MissingDeviceError
from modereg.keys import ACTION, MODE, OBSERVATION, REWARD, SUCCESS
from modereg_integrations.maniskill.registry import register_own_tasks
from modereg_integrations.maniskill.spaces import flatten, observation_specs
from modereg_integrations.maniskill.vulkan import COMMAND, activate

__all__ = ["ManiSkillEnv"]

Leaves = dict[NestedKey, Tensor]
"""Flat entries of the rows of one simulation, each ``[rows, ...]``."""

_DONE_KEYS = ("done", "terminated", "truncated")


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
        options: further keyword arguments of the task's constructor.

    Raises:
        MissingDependencyError: if ManiSkill is not installed.
        MissingDeviceError: if there is no usable Vulkan device.
        ConfigurationError: for an unknown task, info entry or number of rows, or a task whose
            actions are no boxes.
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
        **options: Any,
    ) -> None:
        if num_envs < 1:
            raise ConfigurationError(f"ManiSkillEnv needs num_envs >= 1, got {num_envs}.")
        self._env_id, self._info_keys = env_id, tuple(info_keys)
        modes = {"obs_mode": obs_mode, "reward_mode": reward_mode, "control_mode": control_mode}
        given = {key: value for key, value in modes.items() if value is not None}
        self._options = {"sim_backend": sim_backend, **given, **options}
        self._widths = [num_envs] if sim_backend == "physx_cuda" else [1] * num_envs
        self._sims: list[Any] = self._open()
        self._generators = [torch.Generator() for _ in self._widths]
        super().__init__(device=device or self._sims[0].device, batch_size=[num_envs])
        self.max_steps = _registered_limit(env_id) if max_steps == "registered" else max_steps
        self._make_specs()
        self._set_seed(seed)

    def _open(self) -> list[Any]:
        self._last: list[Leaves] = []
        return [_make_simulation(self._env_id, width, self._options) for width in self._widths]

    def _make_specs(self) -> None:
        sim, batch = self._sims[0], self.batch_size
        boxes = _action_boxes(sim, self._env_id)
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
        specs |= _info_specs(sim.get_info(), self._info_keys, self._env_id)
        self._dtypes = {key: spec.dtype for key, spec in specs.items()}
        self.observation_spec = Composite(shape=batch, device=self.device)
        for key, spec in specs.items():
            self.observation_spec[key] = spec.expand(*batch, *spec.shape).to(self.device)

    def _set_seed(self, seed: int | None) -> None:
        master = torch.Generator()
        master.manual_seed(master.seed() if seed is None else seed)
        for generator in self._generators:
            generator.manual_seed(_draw_seeds(master, 1)[0])

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDictBase:
        if not self._sims:
            self._sims = self._open()
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is None or not self._last:
            mask = torch.ones(*self.batch_size, 1, dtype=torch.bool)
        masks = mask.reshape(-1, 1).split(self._widths)
        last = self._last or [{} for _ in self._widths]
        self._last = [self._restart(*row) for row in zip(self._sims, self._generators, masks, last)]
        return self._collate([key for key in self._last[0] if key != REWARD])

    def _restart(self, sim: Any, generator: torch.Generator, mask: Tensor, last: Leaves) -> Leaves:
        """Reset the rows ``[rows, 1]`` of one simulation that ``mask`` names."""
        if not mask.any():
            return last
        options = {} if mask.all() else {"env_idx": mask.view(-1).nonzero().view(-1).to(sim.device)}
        obs, info = sim.reset(seed=_draw_seeds(generator, len(mask)), options=options)
        new = self._read(obs, info)
        false = torch.zeros(len(mask), 1, dtype=torch.bool, device=self.device)
        new |= {"elapsed_steps": torch.zeros_like(false, dtype=torch.int64)}
        new |= {REWARD: torch.zeros_like(false, dtype=torch.float32)} | dict.fromkeys(
            _DONE_KEYS, false
        )
        return new if mask.all() else _where(mask.to(self.device), new, last)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        actions = tensordict[ACTION].split(self._widths)
        self._last = [self._advance(*row) for row in zip(self._sims, actions, self._last)]
        return self._collate(list(self._last[0]))

    def _advance(self, sim: Any, action: Tensor, last: Leaves) -> Leaves:
        """One step of the rows ``[rows, A]`` of one simulation; rows that are done stand still."""
        stopped = last["done"]
        still = {**last, REWARD: torch.zeros_like(last[REWARD])}
        if stopped.all():
            return still
        obs, reward, terminated, _, info = sim.step(self._split(action.to(sim.device)))
        new = self._read(obs, info)
        new[REWARD] = reward.to(self.device, torch.float32).reshape(-1, 1)
        new["elapsed_steps"] = last["elapsed_steps"] + 1
        new["terminated"] = terminated.to(self.device, torch.bool).reshape(-1, 1)
        new["truncated"] = torch.zeros_like(stopped)
        if self.max_steps is not None:
            new["truncated"] = new["elapsed_steps"] >= self.max_steps
        new["done"] = new["terminated"] | new["truncated"]
        return _where(stopped, still, new) if stopped.any() else new

    def _split(self, action: Tensor) -> Tensor | dict[str, Tensor]:
        """The action of one robot as it is, that of several as one entry a robot."""
        if len(self._robots) == 1:
            return action
        parts = action.split(list(self._robots.values()), dim=-1)
        return dict(zip(self._robots, parts))

    def _read(self, obs: Any, info: Mapping[str, Any]) -> Leaves:
        """Copies of the observation entries: ManiSkill writes the next step into its buffers."""
        found = dict(flatten(obs, OBSERVATION))
        leaves: Leaves = {}
        for key, dtype in self._dtypes.items():
            value = found[key] if key in found else info[key]
            leaf = torch.as_tensor(value).to(self.device, dtype, copy=True)
            leaves[key] = leaf.reshape(-1, 1) if key in (SUCCESS, MODE) else leaf
        return leaves

    def _collate(self, keys: Iterable[NestedKey]) -> TensorDict:
        out = TensorDict({}, batch_size=self.batch_size, device=self.device)
        for key in keys:
            if key != "elapsed_steps":
                out[key] = torch.cat([leaves[key] for leaves in self._last])
        return out

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the simulations; the next reset opens new ones."""
        for sim in self._sims:
            sim.close()
        self._sims, self._last = [], []
        super().close(raise_if_closed=raise_if_closed)


def _make_simulation(env_id: str, num_envs: int, options: Mapping[str, Any]) -> Any:
    """One ManiSkill simulation of ``num_envs`` rows, without its time-limit wrapper."""
    _require_maniskill()
    import gymnasium
    from mani_skill.utils.registration import REGISTERED_ENVS

    register_own_tasks()
    if env_id not in REGISTERED_ENVS:
        raise ConfigurationError(
            f"ManiSkill knows no task {env_id!r}; known are {', '.join(sorted(REGISTERED_ENVS))}."
        )
    render = "gpu" if torch.cuda.is_available() else "cpu"
    options = {"render_backend": render, **options}
    return gymnasium.make(env_id, num_envs=num_envs, **options).unwrapped


def _require_maniskill() -> None:
    """Import ManiSkill, on the driver unpacked in ``$MODEREG_VULKAN`` or ``.vulkan``, if any."""
    if not ({"VK_ICD_FILENAMES", "VK_DRIVER_FILES"} & set(os.environ)):
        activate(os.environ.get("MODEREG_VULKAN", ".vulkan"))
    try:
        import mani_skill.envs  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"ManiSkillEnv needs ManiSkill, which does not import ({error}); "
            "install it with `pip install modereg[maniskill]`."
        ) from error
    _require_device()


@cache
def _require_device() -> None:
    import sapien

    try:
        sapien.render.RenderSystem()
    except RuntimeError as error:
        raise MissingDeviceError(
            f"ManiSkill needs a Vulkan device, even for state observations, and SAPIEN says: "
            f"{error}; a software driver is set up without root by `{COMMAND}`."
        ) from error


def _registered_limit(env_id: str) -> int | None:
    from mani_skill.utils.registration import REGISTERED_ENVS

    limit: int | None = REGISTERED_ENVS[env_id].max_episode_steps
    return limit


def _action_boxes(sim: Any, env_id: str) -> dict[str, Any]:
    """The boxes that the action consists of: one, or one a robot, by its name."""
    space = sim.single_action_space
    boxes: dict[str, Any] = dict(getattr(space, "spaces", {"": space}))
    if not all(hasattr(box, "low") and len(box.shape) == 1 for box in boxes.values()):
        raise ConfigurationError(
            f"ManiSkillEnv needs actions that are boxes, one a robot, got {space} from "
            f"{env_id!r}; choose another control_mode."
        )
    return boxes


def _info_specs(info: Mapping[str, Any], extra: Sequence[str], env_id: str) -> dict[NestedKey, Any]:
    """Specs of one row of ``success``, ``mode`` and ``extra`` in an info ``[N, ...]``."""
    missing = [key for key in extra if key not in info]
    if missing:
        raise ConfigurationError(
            f"The info of {env_id!r} has no {missing}, it has {sorted(info)}; change info_keys."
        )
    specs: dict[NestedKey, Any] = {
        key: Unbounded(tuple(info[key].shape[1:]), dtype=info[key].dtype) for key in extra
    }
    if SUCCESS in info:
        specs[SUCCESS] = Binary(shape=(1,), dtype=torch.bool)
    if MODE in info:
        specs[MODE] = Unbounded((1,), dtype=torch.int64)
    return specs


def _draw_seeds(generator: torch.Generator, num: int) -> list[int]:
    return [int(seed) for seed in torch.randint(2**31 - 1, (num,), generator=generator)]


def _where(mask: Tensor, first: Leaves, second: Leaves) -> Leaves:
    """Rows of ``first`` where ``mask`` ``[rows, 1]`` holds, else of ``second``."""
    rows = mask.view(-1)
    return {
        key: torch.where(rows.view(-1, *[1] * (value.ndim - 1)), value, second[key])
        for key, value in first.items()
    }
