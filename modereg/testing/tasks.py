"""The battery for tasks: what recipes, evaluation and discoverers rely on, on whole episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torchrl.envs import Compose, EnvBase, TransformedEnv
from torchrl.envs.utils import check_env_specs

from modereg import keys
from modereg.tasks import Task, environment_task
from modereg.testing._actions import Replay, Rest, Wide
from modereg.testing._episodes import check_episodes, check_fresh
from modereg.testing._expect import different_entry, expect, not_finite
from modereg.testing._expert import check_expert
from modereg.transforms import ActionChunk, History, TimeLimit

__all__ = ["check_task"]

Policy = Callable[[TensorDictBase], TensorDictBase]


def check_task(
    task: Task | Callable[..., EnvBase],
    *,
    max_steps: int | None = None,
    num_envs: int = 3,
    seed: int = 0,
    expert_episodes: int | None = None,
    expert_success: float = 0.9,
    noisy_steps: bool = False,
) -> None:
    """Check that a task is what :class:`~modereg.tasks.Task` says.

    - ``make_env(n)`` has the batch ``[n]``, its specs hold (``check_env_specs``), and every entry
      that the task names is there, a vector or larger, of floating-point type, with the dimensions
      that it keeps.
    - One seed gives one rollout. A partial reset begins an episode in its row, and the others go
      on as if there had been none.
    - Episodes of random, of resting and of the expert's actions are finite and at most
      ``max_steps`` long; the time limit terminates or truncates, as declared; ``elapsed``, where
      there is one, is the share of the limit.
    - ``success`` is a flag, false at reset. The mode is -1 until it is decided, then stays for the
      episode, in ``[0, num_modes)``; who ends with success shows one.
    - In chunks of actions beyond the spec, which are clipped to its bounds, an episode takes at
      most ``max_decisions`` decisions, and the history of the features is finite.
    - A class that promises ``finished_rows_stay`` keeps it (see
      :class:`~modereg.transforms.ActionChunk`).
    - Demonstrations have the shapes of :class:`~modereg.tasks.Demonstrations` and of the specs,
      actions within the spec, padding as declared; a seed repeats them; enough of them succeed;
      they show every mode, and only one where the shares ask for one.

    As in the recipes, a :class:`~modereg.transforms.TimeLimit` ends episodes where running out of
    time terminates and the environment does not write ``elapsed`` itself.

    Args:
        task: the task, or a factory as :func:`~modereg.tasks.environment_task` takes it.
        max_steps: time limit of a factory's environment, if it has no attribute ``max_steps``.
        num_envs: rows of the environments, at least 2.
        seed: of environments, actions and demonstrations.
        expert_episodes: demonstrations to ask for; None: two for each mode, at least 8.
        expert_success: least share of them that must succeed.
        noisy_steps: whether steps draw random numbers, so that what a row does next depends on
            the resets of others; then it is not compared.

    Raises:
        AssertionError: with a sentence that says what is broken.
    """
    expect(num_envs >= 2, f"give the check at least two environments, not {num_envs}")
    if not isinstance(task, Task):
        task = environment_task(getattr(task, "__name__", "environment"), task, max_steps)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        twins = [_with_clock(task, _make(task, num_envs)) for _ in range(2)]
        try:
            _check(
                _Subject(task, twins[0], twins[1], seed),
                expert_episodes,
                expert_success,
                noisy_steps,
            )
        finally:
            for env in twins:
                env.close(raise_if_closed=False)


@dataclass
class _Subject:
    """A task with two environments of its own that ought to do the same."""

    task: Task
    env: EnvBase
    twin: EnvBase
    seed: int

    def begin(self, env: EnvBase) -> TensorDictBase:
        """Reset to the seed."""
        env.reset()  # TorchRL's first full reset after a partial end returns stale rows
        env.set_seed(self.seed)
        torch.manual_seed(self.seed)
        return env.reset()

    def play(self, env: EnvBase, policy: Policy | None = None) -> TensorDictBase:
        """Roll out one step more than an episode has, ``[N, max_steps + 1]``."""
        return self._roll(env, self.task.layout.max_steps + 1, policy)

    def decide(self, env: EnvBase, policy: Policy) -> TensorDictBase:
        """Roll out as many decisions as an episode has, ``[N, max_decisions]``."""
        return self._roll(env, self.task.layout.max_decisions, policy)

    def _roll(self, env: EnvBase, steps: int, policy: Policy | None) -> TensorDictBase:
        root = self.begin(env)
        return env.rollout(
            steps, policy, auto_reset=False, tensordict=root, break_when_any_done=False
        )


def _check(
    subject: _Subject, expert_episodes: int | None, expert_success: float, noisy_steps: bool
) -> None:
    """Run the parts in an order in which the simple faults are found first."""
    _check_specs(subject)
    _check_entries(subject)
    _check_seeds(subject)
    check_episodes(subject.task, subject.play(subject.env, Rest(subject.env)), "resting")
    _check_partial_reset(subject, noisy_steps)
    _check_finished_rows(subject)
    if subject.task.demonstrate is not None:
        _check_replay(subject, expert_episodes, expert_success)
    _check_chunks(subject)  # last, since it puts transforms around the environments


def _make(task: Task, num_envs: int) -> EnvBase:
    env = task.make_env(num_envs)
    expect(
        tuple(env.batch_size) == (num_envs,),
        f"{task.name}: make_env({num_envs}) made an environment of batch {tuple(env.batch_size)}, "
        f"expected {(num_envs,)}",
    )
    return env


def _with_clock(task: Task, env: EnvBase) -> EnvBase:
    """Add the elapsed time as the recipes do."""
    written = keys.ELAPSED in env.observation_spec.keys(True, True)
    if task.layout.time_limit == "truncates" or written:
        return env
    return TransformedEnv(env, TimeLimit(task.layout.max_steps, "terminates"), auto_unwrap=True)


def _check_specs(subject: _Subject) -> None:
    try:
        check_env_specs(subject.env)
    except Exception as error:
        raise AssertionError(f"{subject.task.name}: specs and data disagree: {error}") from error


def _check_entries(subject: _Subject) -> None:
    task, spec = subject.task, subject.env.full_observation_spec
    present = list(spec.keys(True, True))
    named = {
        "observation_keys": task.observation_keys,
        "steering_keys": task.layout.steered_by,
        "feature_keys": task.layout.features,
    }
    for field, entries in named.items():
        for key in entries:
            expect(
                key in present,
                f"{task.name}: {field} names {key!r}, which the environment does not write",
            )
            expect(
                field == "observation_keys" or spec[key].dtype.is_floating_point,
                f"{task.name}: {field} names {key!r}, which is {spec[key].dtype}; networks read "
                "floating-point numbers",
            )
            expect(
                len(spec[key].shape) > len(spec.shape),
                f"{task.name}: {field} names {key!r} of shape {tuple(spec[key].shape)}, a single "
                "number; give it a dimension of its own, as UnsqueezeTransform does",
            )
    if task.layout.feature_dims is not None:
        width = sum(spec[key].shape[1:].numel() for key in task.layout.features)
        expect(
            len(task.layout.feature_dims) > 0
            and all(0 <= dim < width for dim in task.layout.feature_dims),
            f"{task.name}: feature_dims are {task.layout.feature_dims} of features of length "
            f"{width}",
        )
    expect(
        task.num_modes is None or keys.MODE in present,
        f"{task.name}: declares {task.num_modes} modes, but its environment writes no "
        f"{keys.MODE!r}",
    )


def _check_seeds(subject: _Subject) -> None:
    name, seed = subject.task.name, subject.seed
    changed = different_entry(subject.begin(subject.env), subject.begin(subject.env))
    expect(changed is None, f"{name}: set_seed({seed}) and reset give another {changed!r}")
    rollout, again = subject.play(subject.env), subject.play(subject.twin)
    changed = different_entry(rollout, again)
    expect(changed is None, f"{name}: one seed gives two rollouts, unlike in {changed!r}")
    check_episodes(subject.task, rollout, "random")


def _check_partial_reset(subject: _Subject, noisy_steps: bool) -> None:
    name = subject.task.name
    root, same = _walk(subject, subject.env), _walk(subject, subject.twin)
    chosen = torch.arange(len(root)).view(-1, 1) == 0
    after = subject.env.reset(root.clone().set("_reset", chosen.to(root.device or "cpu")))
    check_fresh(name, after[:1])
    if noisy_steps:
        return
    action = subject.env.full_action_spec.rand()
    later = subject.env.step(after.update(action))["next"]
    expected = subject.twin.step(same.update(action.clone()))["next"]
    changed = different_entry(later[1:], expected[1:])
    expect(
        changed is None,
        f"{name}: after a reset of row 0 the other rows go on differently, in {changed!r}; pass "
        "noisy_steps=True if steps draw random numbers",
    )


def _walk(subject: _Subject, env: EnvBase, steps: int = 2) -> TensorDictBase:
    """Take some random steps, as long as no row has ended, and return the root after them."""
    root = subject.begin(env)
    for _ in range(min(steps, subject.task.layout.max_steps - 1)):
        following = env.step_mdp(env.step(env.rand_action(root.clone())))
        if bool(following.get("done").any()):
            break
        root = following
    return root


def _check_finished_rows(subject: _Subject) -> None:
    env = subject.env.base_env if isinstance(subject.env, TransformedEnv) else subject.env
    if not getattr(type(env), "finished_rows_stay", False):
        return
    root = subject.begin(env)
    for _ in range(subject.task.layout.max_steps):
        root = env.step_mdp(env.step(env.rand_action(root)))
    after = env.step(env.rand_action(root.clone()))["next"]
    ended = root.get("done").flatten()
    names = [key for key in after.keys(True, True) if key in root.keys(True, True)]
    changed = different_entry(root.select(*names)[ended], after.select(*names)[ended])
    if bool(after.get(env.reward_key)[ended].any()):
        changed = env.reward_key
    expect(
        changed is None,
        f"{subject.task.name}: {type(env).__name__} promises that finished rows stay, but a step "
        f"after the end changed {changed!r}",
    )


def _check_replay(subject: _Subject, episodes: int | None, least_success: float) -> None:
    task, env = subject.task, subject.env
    number = episodes or max(2 * (task.num_modes or 0), 8)
    actions = check_expert(task, env, number, subject.seed, least_success)
    rows = torch.arange(env.batch_size.numel()) % len(actions)
    rollout = subject.play(env, Replay(actions[rows], env.action_key))
    check_episodes(task, rollout, "the expert's")


def _chunked(task: Task, env: EnvBase) -> TransformedEnv:
    chunk = ActionChunk(task.layout.played, offset=task.layout.offset, horizon=task.layout.horizon)
    history = History(
        list(task.layout.features), length=task.layout.max_decisions, dims=task.layout.feature_dims
    )
    return TransformedEnv(env, Compose(chunk, history), auto_unwrap=True)


def _check_chunks(subject: _Subject) -> None:
    task, env = subject.task, _chunked(subject.task, subject.env)
    rollout = subject.decide(env, Wide(env))
    broken = not_finite(rollout)
    expect(
        broken is None,
        f"{task.name}: chunks of actions at the bounds of the spec led to {broken!r} that is not "
        "finite",
    )
    expect(
        bool(rollout.get(("next", "done")).flatten(1).any(1).all()),
        f"{task.name}: an episode goes on after max_decisions={task.layout.max_decisions} "
        f"decisions of {task.layout.execute} steps",
    )
