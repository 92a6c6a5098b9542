"""From a configuration to objects: task, base policy, layout, steered environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from tensordict import NestedKey
from torchrl.envs import EnvBase

from modereg import keys, plugins
from modereg.errors import ConfigurationError
from modereg.layout import Layout
from modereg.policies import DenoisingChain, GenerativePolicy, freeze
from modereg.priors import CategoricalPrior, Prior
from modereg.recipes.config import TaskConfig
from modereg.residual import ChunkResidual, StepResidual
from modereg.seeding import isolated_generators
from modereg.suggestions import with_suggestion
from modereg.tasks import Task, WorkerEnv
from modereg.tasks.workers import check_workers
from modereg.wrapping import SteeredEnv, steer_env

__all__ = ["Setup", "check_device", "check_trust", "discrete", "make_envs", "set_up", "with_layout"]


@dataclass
class Setup:
    """What every recipe starts from.

    Attributes:
        task: the task, with the layout that the configuration asks for.
        layout: the same, narrowed to the base policy.
        base: the frozen base policy.
        reference: how the user named the base policy.
        fingerprint: of the base policy.
        num_envs: environments B in a batch.
        device: where policies are.
        env_device: where environments are.
        workers: processes that step them; 1 for this one.
        spent: environment steps that it took to make it.
        residual: moves the base's chunks, None where nothing does.
        tuned: decodes in the base's place, with trained weights; None where the base does.
        step_residual: moves each action when it is played, None where nothing does.
    """

    task: Task
    layout: Layout
    base: GenerativePolicy
    reference: str
    fingerprint: str
    num_envs: int
    device: torch.device
    env_device: torch.device
    workers: int = 1
    spent: int = 0
    residual: ChunkResidual | None = None
    tuned: DenoisingChain | None = None
    step_residual: StepResidual | None = None

    def make_env(self) -> EnvBase:
        """Return a plain environment of its own, batch ``[B]``, whose steps are its own.

        The global generators are left as they were: seed it before it is used.
        """
        with isolated_generators():
            return make_envs(self.task, self.num_envs, self.workers, self.env_device)

    @cached_property
    def env(self) -> EnvBase:
        """A plain environment that is made once, in this process, for those who only look."""
        with isolated_generators():
            return make_envs(self.task, self.num_envs, 1, self.env_device)

    def steered(self, prior: Prior | int, gamma: float | None = None) -> SteeredEnv:
        """Return an environment of its own, with the noise as its action and a code an episode.

        Args:
            prior: p(z), or the number of codes.
            gamma: discount of an environment step; None takes the layout's. Evaluation takes 1.
        """
        layout = self.layout if gamma is None else replace(self.layout, gamma=gamma)
        env = steer_env(self.make_env(), self.base, prior, layout, self.residual)
        env.set_decoder(self.tuned)
        env.set_step_residual(self.step_residual)
        return env

    def final_keys(self, env: EnvBase) -> list[NestedKey]:
        """Entries of the last ``next`` that an evaluation reads."""
        there = env.observation_spec.keys(True, True)
        labels = [key for key in (keys.SUCCESS, keys.MODE) if key in there]
        return [*labels, keys.HISTORY, keys.LATENT]


def set_up(config: TaskConfig, base: str, device: str = "cpu") -> Setup:
    """Resolve a task and a base policy, and freeze the policy on its device.

    Raises:
        ConfigurationError: if the policy's chunks do not fit the layout, the environment lacks an
            entry that the configuration names, there is no such device, or workers do not share the
            environments equally, or are to have a device.
    """
    place = check_device(device)
    task = plugins.resolve_task(config.name, **config.options)
    policy = freeze(plugins.resolve_policy(base).to(place))
    setup = Setup(
        task=task,
        layout=task.layout,
        base=policy,
        reference=base,
        fingerprint=policy.fingerprint(),
        num_envs=config.num_envs or task.num_envs,
        device=place,
        env_device=_env_device(config, place),
        workers=config.workers,
    )
    check_workers(setup.num_envs, setup.workers)
    setup.task = with_layout(task, config, lambda: setup.env)
    setup.layout = setup.task.layout.for_policy(policy)
    return setup


def make_envs(
    task: Task, num_envs: int, workers: int = 1, device: torch.device | None = None
) -> EnvBase:
    """Return a batch of a task's environments, in this process or stepped by several workers.

    Raises:
        ConfigurationError: if workers do not share the environments equally.
    """
    if workers > 1:
        return WorkerEnv(task.make_env, num_envs, workers)
    place = {} if device is None or device.type == "cpu" else {"device": device}
    return task.make_env(num_envs, **place)


def _env_device(config: TaskConfig, policy: torch.device) -> torch.device:
    if config.workers == 1:
        return policy if config.device is None else check_device(config.device)
    if config.device not in (None, "cpu"):
        raise ConfigurationError(
            f"expected environments in workers on the CPU, got --task.device {config.device}; "
            "leave it out, or leave the workers out"
        )
    return torch.device("cpu")


def check_device(name: str) -> torch.device:
    """Return a device that is there.

    Raises:
        ConfigurationError: if there is none of that name.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"expected a device of this machine, such as cpu or cuda, got {name!r}: {reason}"
        ) from None
    return device


def check_trust(where: str, *, task: str, base: str, trust: bool) -> None:
    """Refuse to follow references to code that were read from a file.

    Raises:
        ConfigurationError: if one names code and ``trust`` is False.
    """
    named = [name for name in (task, base) if plugins.names_code(name)]
    if named and not trust:
        raise ConfigurationError(
            f"{where} names code to import, {' and '.join(map(repr, named))}, which is not run "
            "because a file says so; add --trust-code if you trust whoever wrote it"
        )


def discrete(prior: Prior) -> CategoricalPrior:
    """Return the prior, which the recipes need to be of discrete codes: they judge each of them.

    Raises:
        ConfigurationError: if it is continuous.
    """
    if not isinstance(prior, CategoricalPrior):
        raise ConfigurationError(
            f"expected discrete codes, each of which a run judges, got {prior!r}; use your own "
            "loop for continuous ones"
        )
    return prior


def with_layout(task: Task, config: TaskConfig, make_env: Callable[[], EnvBase]) -> Task:
    """Return the task with what the configuration asks to differ.

    Args:
        task: as it is resolved.
        config: what differs.
        make_env: returns an environment of it, to look for entries that are named.

    Raises:
        ConfigurationError: if the environment lacks one.
    """
    changes = {
        name: getattr(config, name)
        for name in ("execute", "offset", "gamma", "feature_dims")
        if getattr(config, name) is not None
    }
    if config.feature_keys is not None:
        changes["feature_dims"] = config.feature_dims
        changes["feature_keys"] = _entries("feature_keys", config.feature_keys, task, make_env())
    if config.steering_keys is not None:
        changes["steering_keys"] = _entries("steering_keys", config.steering_keys, task, make_env())
    if "feature_keys" in changes:
        task = replace(task, plot=None)
    if "feature_dims" in changes:
        task = replace(task, feature_names=None)
    if config.feature_noise is not None:
        task = replace(task, feature_noise=config.feature_noise)
    return task.with_layout(**changes)


def _entries(option: str, names: Sequence[str], task: Task, env: EnvBase) -> tuple[NestedKey, ...]:
    """Return the environment's entries of some dotted names.

    Raises:
        ConfigurationError: if it lacks one.
    """
    present = env.observation_spec.keys(include_nested=True, leaves_only=True)
    known = {key if isinstance(key, str) else ".".join(key): key for key in present}
    missing = [name for name in names if name not in known]
    if missing:
        sentence = (
            f"expected {option} among the entries of task {task.name!r}, "
            f"{', '.join(sorted(known))}, got {', '.join(missing)}"
        )
        raise ConfigurationError(with_suggestion(sentence, missing, sorted(known)))
    return tuple(known[name] for name in names)
