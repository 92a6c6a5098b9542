"""A policy of LeRobot that noise steers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data.vla import INSTRUCTION_KEY

from modereg import keys
from modereg.errors import ConfigurationError, ShapeError
from modereg.policies import GenerativePolicy
from modereg_integrations.flows import flat_texts
from modereg_integrations.lerobot.flows import PI0Sampler, SmolVLASampler
from modereg_integrations.lerobot.inputs import flatten_feature
from modereg_integrations.lerobot.library import library
from modereg_integrations.lerobot.samplers import DiffusionSampler, Sampler
from modereg_integrations.lerobot.saving import configuration, read_folder, write_folder

__all__ = ["LeRobotPolicy"]

_TASK = "task"
_TASK_WANTED = "the task in words, there or as the policy's task=..."
_SAMPLERS: dict[str, type[Sampler]] = {
    "diffusion": DiffusionSampler,
    "pi0": PI0Sampler,
    "smolvla": SmolVLASampler,
}


class LeRobotPolicy(GenerativePolicy):
    """A DiffusionPolicy, SmolVLA or PI0 of LeRobot, decoded deterministically from its noise.

    The decode gives, to float precision, what LeRobot's preprocessor, ``predict_action_chunk`` and
    postprocessor give for the same noise, and is differentiable in it. Images and task are encoded
    once for an observation and shared by all noises of it.

    ===============  =================================  =============================
    policy           ``noise_shape``                    ``chunk_shape``
    ===============  =================================  =============================
    DiffusionPolicy  ``(horizon, A)``                   ``(n_action_steps, A)``
    SmolVLA, PI0     ``(chunk_size, max_action_dim)``   ``(chunk_size, A)``
    ===============  =================================  =============================

    A chunk begins with the action of the present, so ``offset`` is 0 in :func:`~modereg.wrap`; a
    VLA's ``config.n_action_steps`` is what its ``execute`` should be.

    Observations are read in the order of the policy's ``input_features``, the task last; they are
    in the units of LeRobot's dataset:

    - a state, ``[*B, S]``;
    - an image, ``[*B, 3, height, width]``: ``uint8`` in [0, 255], or floats in [0, 1];
    - both ``[*B, n_obs_steps, ...]``, the newest last, for a DiffusionPolicy with more than one
      observation step, which :func:`~modereg.wrap` stacks from an environment's single ones;
    - the task in words, for a VLA: a text for all, or one for each observation.

    Args:
        policy: the policy; it is not copied, and put into ``eval`` mode.
        preprocessor: LeRobot's pipeline before the policy, which normalises and tokenises.
        postprocessor: LeRobot's pipeline behind it, which goes back to physical units.
        entries: entry of the tensordict for each of LeRobot's names. What is left out is read from
            the nested key of its name, ``observation.images.top`` from ``("observation", "images",
            "top")``, and the task from ``language_instruction``.
        task: the task in words, the same at every observation; None reads it.
        noise_key: entry of the noise.
        chunk_key: entry of the chunk.

    Raises:
        MissingDependencyError: if LeRobot is not installed.
        StochasticSamplerError: if a DiffusionPolicy uses DDPM; the sentence has the fix.
        ConfigurationError: if the policy is of another kind, or ``entries`` names no input of it.
    """

    def __init__(
        self,
        policy: Any,
        preprocessor: Callable[[dict[str, Any]], dict[str, Any]],
        postprocessor: Callable[[Tensor], Tensor],
        *,
        entries: Mapping[str, NestedKey] | None = None,
        task: str | None = None,
        noise_key: NestedKey = keys.NOISE,
        chunk_key: NestedKey = keys.CHUNK,
    ) -> None:
        library("policies.factory")
        sampler = _make_sampler(policy)
        if task is not None and not sampler.takes_task:
            raise ConfigurationError(
                f"expected no task for a policy that reads none, got {task!r}; leave it out"
            )
        features = _features(policy.config)
        names = [*features, _TASK] if sampler.takes_task and task is None else [*features]
        super().__init__(
            observation_keys=_observation_keys(names, entries or {}),
            noise_shape=sampler.noise_shape,
            chunk_shape=sampler.chunk_shape,
            noise_key=noise_key,
            chunk_key=chunk_key,
        )
        self.policy = policy.eval()
        self.preprocessor, self.postprocessor = preprocessor, postprocessor
        self.entries = dict(zip(names, self.observation_keys))
        self.task = task
        self._sampler, self._features = sampler, features
        self.observation_steps = max(sampler.history, 1)

    @property
    def config(self) -> Any:
        """The configuration of LeRobot's policy."""
        return self.policy.config

    def decode(self, noise: Tensor, *observations: Any) -> Tensor:
        """Decode noise into chunks.

        Args:
            noise: ``[*B, *R, *noise_shape]``: R noises (none: one) for each observation.
            observations: in the order of ``observation_keys``, of batch B.

        Returns:
            The chunks in physical units, ``[*B, *R, H, A]``; they have a graph only if the noise,
            an observation or a parameter requires one.

        Raises:
            ShapeError: if noise or observations have other shapes.
            ConfigurationError: if an observation is of another type.
        """
        rows, batch = self._read(observations)
        rank, whole = len(batch), noise.shape[: noise.ndim - len(self.noise_shape)]
        if noise.shape != (*whole, *self.noise_shape) or whole[:rank] != batch:
            raise ShapeError(
                f"expected noise of shape [*{tuple(batch)}, ..., "
                f"{', '.join(map(str, self.noise_shape))}], got {tuple(noise.shape)}"
            )
        repeats, weight = whole[rank:].numel(), self._sampler.weight
        flat = noise.to(weight).reshape(batch.numel(), repeats, *self.noise_shape)
        chunk = self._sampler.sample(self._prepare(rows), flat)
        # One long chunk for each observation, since relative actions are added to its state.
        physical = self.postprocessor(chunk.flatten(1, 2))
        return physical.to(noise).reshape(*whole, *self.chunk_shape)

    def _read(self, observations: tuple[Any, ...]) -> tuple[dict[str, Any], torch.Size]:
        """Return LeRobot's flat batch of N rows, and the shape of the batch."""
        if len(observations) != len(self.observation_keys):
            raise ShapeError(
                f"expected {len(self.observation_keys)} observations {self.observation_keys}, got "
                f"{len(observations)}"
            )
        rows: dict[str, Any] = {}
        batches = []
        for name, value in zip(self._features, observations):
            batch, rows[name] = self._flatten(name, value)
            batches.append(batch)
        if len(set(batches)) > 1:
            raise ShapeError(
                f"expected observations of one batch, got {dict(zip(rows, map(tuple, batches)))}"
            )
        if self._sampler.takes_task:
            task = observations[-1] if self.task is None else self.task
            rows[_TASK] = flat_texts(task, batches[0].numel(), _TASK_WANTED)
        return rows, batches[0]

    def _flatten(self, name: str, value: Any) -> tuple[torch.Size, Tensor]:
        feature, sampler = self._features[name], self._sampler
        return flatten_feature(
            name,
            value,
            feature.shape,
            image=feature.type.name == "VISUAL",
            history=sampler.history,
            resizes=sampler.resizes,
        )

    def _prepare(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Run LeRobot's preprocessor, and put what it returns where the weights are."""
        weight = self._sampler.weight
        for name in self._features:
            rows[name] = rows[name].to(weight)
        batch = self.preprocessor(rows)
        return {
            name: value.to(weight.device) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }

    def configuration(self) -> dict[str, Any]:
        """Return the options of policy, processors and normalisation, JSON-able."""
        own = configuration(self.config, (self.preprocessor, self.postprocessor))
        return super().configuration() | own | {"task": self.task}

    def save_pretrained(self, folder: str | Path) -> None:
        """Save policy and processors as LeRobot does, and the options of this class beside them.

        It happens at once or not at all; a policy that was saved there is replaced.

        Raises:
            CheckpointError: if the folder holds something else.
        """
        options = {
            "entries": self.entries,
            "task": self.task,
            "noise_key": self.noise_key,
            "chunk_key": self.chunk_key,
        }
        pipelines = (self.preprocessor, self.postprocessor)
        write_folder(Path(folder), self.policy, pipelines, options)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, config: Mapping[str, Any] | None = None, **options: Any
    ) -> LeRobotPolicy:
        """Load a policy from a folder, in ``eval`` mode.

        LeRobot fetches what a SmolVLA's ``vlm_model_name`` and a tokenizer's name stand for from
        the hub, unless they are folders, or in its cache.

        Args:
            folder: what :meth:`save_pretrained`, ``lerobot-train`` or LeRobot's own
                ``save_pretrained`` of policy and processors wrote.
            config: replaces entries of LeRobot's ``config.json``, for example
                ``{"noise_scheduler_type": "DDIM", "num_inference_steps": 10}``.
            **options: arguments of :class:`LeRobotPolicy`, in place of the saved ones.

        Raises:
            MissingDependencyError: if LeRobot is not installed.
            CheckpointError: if the folder is damaged, foreign, or not what was saved there.
            StochasticSamplerError: if a DiffusionPolicy uses DDPM; the sentence has the fix.
            ConfigurationError: if ``config`` has an entry that is unknown or impossible.
        """
        *parts, saved = read_folder(Path(folder), dict(config or {}))
        return cls(*parts, **saved | options)


def _make_sampler(policy: Any) -> Sampler:
    kind = getattr(getattr(policy, "config", None), "type", None)
    if kind not in _SAMPLERS:
        raise ConfigurationError(
            f"expected a policy of LeRobot of type {', '.join(_SAMPLERS)}, got {kind!r} "
            f"({type(policy).__name__}); as_generative_policy takes any function of noise and "
            "observations"
        )
    return _SAMPLERS[kind](policy)


def _features(config: Any) -> dict[str, Any]:
    """Return the inputs that are read; LeRobot fills in those of empty cameras."""
    inputs = config.input_features
    return {name: inputs[name] for name in inputs if ".empty_camera_" not in name}


def _observation_keys(names: list[str], entries: Mapping[str, NestedKey]) -> list[NestedKey]:
    unknown = sorted(set(entries) - set(names))
    if unknown:
        raise ConfigurationError(
            f"expected entries for inputs of the policy, which are {names}, got {unknown}"
        )
    usual = {name: tuple(name.split(".")) for name in names} | {_TASK: INSTRUCTION_KEY}
    return [entries.get(name, usual[name]) for name in names]
