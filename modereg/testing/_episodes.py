"""What must hold in the episodes of any task: ends, success and mode, step by step."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.tasks import Task
from modereg.testing._expect import expect, not_finite

__all__ = ["ages", "check_episodes", "check_fresh"]


def ages(rollout: TensorDictBase) -> Tensor:
    """Return the number of steps that each episode has taken after each transition, ``[N, T]``."""
    ends = rollout.get(("next", "done")).flatten(1)
    age, counts = torch.zeros_like(ends[:, 0], dtype=torch.int64), []
    for column in ends.unbind(1):
        counts.append(age + 1)
        age = torch.where(column, 0, age + 1)
    return torch.stack(counts, 1)


def check_episodes(task: Task, rollout: TensorDictBase, actions: str) -> None:
    """Check a rollout ``[N, T]`` over ends of episodes.

    Raises:
        AssertionError: with a sentence that says what is broken.
    """
    name = f"{task.name}, {actions} actions"
    broken = not_finite(rollout)
    expect(broken is None, f"{name}: {broken!r} holds values that are not finite")
    age = ages(rollout)
    check_fresh(name, rollout[age == 1])
    _check_ends(task, rollout, age, name)
    _check_success(rollout, name)
    if rollout.get(keys.MODE, None) is not None:
        _check_mode(task, rollout, name)


def check_fresh(name: str, root: TensorDictBase) -> None:
    """Check entries after a reset, ``[N]``: nothing is over, solved, decided or elapsed.

    Raises:
        AssertionError: with a sentence that says what is broken.
    """
    for key in ("done", keys.SUCCESS, keys.ELAPSED):
        value = root.get(key, None)
        expect(
            value is None or not bool(value.any()), f"{name}: an episode begins with {key!r} set"
        )
    mode = root.get(keys.MODE, None)
    expect(
        mode is None or bool((mode == -1).all()),
        f"{name}: an episode begins with a mode; it must be -1 until behaviour decides it",
    )


def _flags(rollout: TensorDictBase, key: str, like: Tensor) -> Tensor:
    value = rollout.get(("next", key), None)
    return torch.zeros_like(like) if value is None else value.flatten(1)


def _check_ends(task: Task, rollout: TensorDictBase, age: Tensor, name: str) -> None:
    done = rollout.get(("next", "done")).flatten(1)
    terminated, truncated = (_flags(rollout, key, done) for key in ("terminated", "truncated"))
    limit = age >= task.layout.max_steps
    expect(
        torch.equal(done, terminated | truncated),
        f"{name}: done is not the union of terminated and truncated",
    )
    expect(
        bool(done[limit].all()),
        f"{name}: an episode goes on after max_steps={task.layout.max_steps} steps",
    )
    if task.layout.time_limit == "terminates":
        expect(
            not bool(truncated.any()),
            f"{name}: an episode was truncated, where the task declares that its time limit "
            "terminates",
        )
    else:
        early = truncated & ~limit
        expect(
            not bool(early.any()),
            f"{name}: an episode was truncated after {_first(age, early)} steps, where the task "
            f"declares max_steps={task.layout.max_steps}",
        )
        truncates = rollout.get(("next", "truncated"), None) is not None
        expect(
            truncates or not bool((terminated & limit).any()),
            f"{name}: running out of steps terminates, where the task declares that it truncates",
        )
    elapsed = rollout.get(("next", keys.ELAPSED), None)
    expect(
        elapsed is None or _is_share(elapsed.flatten(1), age, task.layout.max_steps),
        f"{name}: {keys.ELAPSED!r} is not the share of max_steps={task.layout.max_steps}",
    )


def _is_share(elapsed: Tensor, age: Tensor, max_steps: int) -> bool:
    return torch.allclose(elapsed, age.to(elapsed.dtype) / max_steps, rtol=0.0, atol=1e-3)


def _first(values: Tensor, where: Tensor) -> int:
    return int(values[where][0]) if bool(where.any()) else 0


def _check_success(rollout: TensorDictBase, name: str) -> None:
    success = rollout.get(keys.SUCCESS, None)
    if success is None:
        return
    expect(
        success.dtype == torch.bool and success.shape == (*rollout.batch_size, 1),
        f"{name}: {keys.SUCCESS!r} must be a flag [*B, 1], got {success.dtype} of shape "
        f"{tuple(success.shape)}",
    )


def _check_mode(task: Task, rollout: TensorDictBase, name: str) -> None:
    mode, after = rollout.get(keys.MODE), rollout.get(("next", keys.MODE))
    expect(
        mode.dtype == torch.int64 and mode.shape == (*rollout.batch_size, 1),
        f"{name}: {keys.MODE!r} must be int64 of shape [*B, 1], got {mode.dtype} of shape "
        f"{tuple(mode.shape)}",
    )
    mode, after = mode.flatten(1), after.flatten(1)
    low, high = int(after.min()), int(after.max())
    most = high if task.num_modes is None else task.num_modes - 1
    expect(low >= -1 and high <= most, f"{name}: modes lie in [{low}, {high}], not in [-1, {most}]")
    expect(
        not bool(((mode >= 0) & (mode != after)).any()),
        f"{name}: a decided mode changed within its episode",
    )
    done, success = rollout.get(("next", "done")), rollout.get(("next", keys.SUCCESS), None)
    ended = torch.zeros_like(done) if success is None else done & success
    expect(
        bool((after[ended.flatten(1)] >= 0).all()),
        f"{name}: an episode ended with success while its mode was undecided",
    )
