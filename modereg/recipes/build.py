"""From a configuration to objects: task, base policy, steered environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tensordict import NestedKey
from torchrl.envs import EnvBase, TransformedEnv

from modereg import keys, plugins
from modereg.errors import ConfigurationError
from modereg.estimators import RewardEstimator
from modereg.policies import GenerativePolicy
from modereg.priors import CategoricalPrior, Prior
from modereg.recipes.config import TaskConfig
from modereg.suggestions import with_suggestion
from modereg.tasks import Task
from modereg.transforms import MIReward, TimeLimit
from modereg.wrapping import steer_env

__all__ = ["Setup", "Timing", "discrete", "set_up"]

Timing = Literal["dense", "difference", "final"]
"""When the intrinsic reward is paid."""


@dataclass
class Setup:
    """What every recipe starts from.

    Attributes:
        task: the task.
        env: its plain environment, batch ``[B]``, with environment steps as steps.
        base: the frozen base policy.
        reference: how the user named the base policy.
        fingerprint: of the base policy.
        watch: is told how many more episodes an evaluation has rolled out, whoever asked for it.
    """

    task: Task
    env: EnvBase
    base: GenerativePolicy
    reference: str
    fingerprint: str
    watch: Callable[[int], None] | None = None

    @property
    def num_envs(self) -> int:
        """B."""
        return self.env.batch_size.numel()

    def steered(self, prior: Prior | int, gamma: float) -> TransformedEnv:
        """Return the environment with the noise as its action and a code in each episode.

        Where the time limit terminates and the environment does not say how much time has passed,
        a :class:`~modereg.transforms.TimeLimit` does.
        """
        task, env = self.task, self.env
        if self.needs_clock:
            env = TransformedEnv(env, TimeLimit(task.max_steps, "terminates"), auto_unwrap=True)
        return steer_env(
            env,
            self.base,
            prior,
            max_decisions=task.max_decisions,
            execute=task.execute,
            offset=task.offset,
            gamma=gamma,
            feature_keys=task.feature_keys or task.observation_keys,
            feature_dims=task.feature_dims,
        )

    @property
    def needs_clock(self) -> bool:
        """Whether the time has to be written beside the environment's own entries."""
        written = keys.ELAPSED in self.env.observation_spec.keys(True, True)
        return self.task.time_limit == "terminates" and not written

    @property
    def steering_keys(self) -> list:
        """What steering policy and critic read: the time too, where running out of it ends all."""
        chosen = list(self.task.steering_keys or self.task.observation_keys)
        if self.task.time_limit == "terminates" and keys.ELAPSED not in chosen:
            chosen.append(keys.ELAPSED)
        return chosen

    def decisions(self, asked: int | None) -> int:
        """Return the decisions of an iteration, at least those of the longest episode.

        Raises:
            ConfigurationError: if fewer are asked for: iterations begin with a reset, so that no
                long episode would ever end in one.
        """
        longest = self.task.max_decisions
        if asked is not None and asked < longest:
            raise ConfigurationError(
                f"expected ppo.decisions of at least {longest}, the longest episode of task "
                f"{self.task.name!r}, got {asked}; every iteration begins with a reset"
            )
        return asked or longest

    def timing(self, asked: Timing | None) -> Timing:
        """Return when the intrinsic reward is paid, chosen by the time limit if not asked for."""
        return asked or ("final" if self.task.time_limit == "terminates" else "difference")

    def mi_reward(
        self, estimator: RewardEstimator, coef: float, timing: Timing | None, gamma: float
    ) -> MIReward:
        """Return the transform that pays the intrinsic reward, for use on collected batches.

        Without a timing, one that learns from steps pays for steps, by ``"difference"``.
        """
        if timing is None and estimator.transitions:
            timing = "difference"
        return MIReward(
            estimator,
            coef=coef,
            timing=self.timing(timing),
            gamma=gamma,
            time_limit=self.task.time_limit,
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


def set_up(config: TaskConfig, base: str) -> Setup:
    """Resolve a task and a base policy, freeze the policy and make the environment.

    Raises:
        ConfigurationError: if the policy's chunk does not fit the task's chunk layout, or the
            environment lacks an entry that the configuration names.
    """
    task = plugins.resolve_task(config.name, **config.options)
    policy = plugins.resolve_policy(base)
    policy.eval().requires_grad_(False)
    if policy.chunk_shape[0] < task.offset + task.execute:
        raise ConfigurationError(
            f"task {task.name!r} plays actions {task.offset} to {task.offset + task.execute - 1} "
            f"of a chunk, the policy {base} makes {policy.chunk_shape[0]}; set execute and offset "
            "in the task's options"
        )
    env = task.make_env(config.num_envs or task.num_envs)
    task = _with_entries(task, config, env)
    return Setup(task, env, policy, base, policy.fingerprint())


def _with_entries(task: Task, config: TaskConfig, env: EnvBase) -> Task:
    """Return the task with the entries that the configuration names, if it names any."""
    dims = config.feature_dims
    if dims is not None:
        task = replace(task, feature_dims=dims, feature_names=None)
    if config.feature_keys is not None:
        seen = _entries("feature_keys", config.feature_keys, task, env)
        task = replace(task, feature_keys=seen, feature_dims=dims, feature_names=None, plot=None)
    if config.steering_keys is not None:
        read = _entries("steering_keys", config.steering_keys, task, env)
        task = replace(task, steering_keys=read)
    return task


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
