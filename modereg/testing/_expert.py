"""What must hold in a task's demonstrations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchrl.data import Bounded
from torchrl.envs import EnvBase

from modereg.tasks import Demonstrations, Task
from modereg.testing._expect import expect

__all__ = ["check_expert"]


def check_expert(
    task: Task, env: EnvBase, episodes: int, seed: int, least_success: float
) -> Tensor:
    """Check demonstrations of a task against its declaration and an environment's specs.

    Args:
        task: with ``demonstrate``.
        env: one of its environments, ``[N]``.
        episodes: how many to ask for.
        seed: of the demonstrations.
        least_success: least share that must succeed.

    Returns:
        The actions, ``[episodes, T, A]``.

    Raises:
        AssertionError: with a sentence that says what is broken.
    """
    demonstrate = task.demonstrate
    assert demonstrate is not None, "a task without an expert"
    shown = demonstrate(episodes, seed)
    name = f"{task.name}'s expert"
    _check_shapes(task, env, shown, episodes, name)
    _check_padding(shown, name)
    _check_labels(task, shown, least_success, name)
    again = demonstrate(episodes, seed)
    same = torch.equal(shown.actions, again.actions) and torch.equal(shown.modes, again.modes)
    expect(same, f"{name} does not repeat its episodes for one seed")
    if task.num_modes is not None:
        _check_shares(demonstrate, task.num_modes, seed, name)
    return shown.actions


def _check_shapes(
    task: Task, env: EnvBase, shown: Demonstrations, episodes: int, name: str
) -> None:
    width = env.action_spec.shape[-1]
    expect(
        len(shown) == episodes and shown.actions.shape[2:] == (width,),
        f"{name} gave actions {tuple(shown.actions.shape)}, expected [{episodes}, T, {width}]",
    )
    steps = shown.actions.shape[1]
    expect(
        steps <= task.layout.max_steps,
        f"{name} shows episodes of {steps} steps, above max_steps={task.layout.max_steps}",
    )
    for key in task.observation_keys:
        expect(key in shown.observations, f"{name} does not show {key!r}, which the policy reads")
        value, spec = shown.observations[key], env.observation_spec[key]
        expect(
            value.shape[2:] == spec.shape[1:] and value.dtype == spec.dtype,
            f"{name} shows {key!r} as {value.dtype} {tuple(value.shape[2:])}, where the "
            f"environment gives {spec.dtype} {tuple(spec.shape[1:])}",
        )
    values = [shown.actions, *shown.observations.values()]
    expect(
        all(bool(torch.isfinite(value).all()) for value in values if value.is_floating_point()),
        f"{name} shows values that are not finite",
    )
    _check_bounds(env, shown, name)


def _check_bounds(env: EnvBase, shown: Demonstrations, name: str) -> None:
    spec = env.action_spec
    if not isinstance(spec, Bounded):
        return
    low, high = (bound[0].to(shown.actions.device) for bound in (spec.low, spec.high))
    slack = 1e-4 * (high - low)
    inside = (shown.actions >= low - slack) & (shown.actions <= high + slack)
    expect(bool(inside.all()), f"{name} shows actions outside of the environment's spec")


def _check_padding(shown: Demonstrations, name: str) -> None:
    steps, lengths = shown.actions.shape[1], shown.lengths
    expect(
        lengths.dtype == torch.int64 and bool(((lengths >= 1) & (lengths <= steps)).all()),
        f"{name}: lengths must be int64 in [1, {steps}], got {lengths.dtype} in "
        f"[{int(lengths.min())}, {int(lengths.max())}]",
    )
    padding = torch.arange(steps) >= lengths[:, None]
    expect(not bool(shown.actions[padding].any()), f"{name}: actions past the end are not 0")
    for key, value in shown.observations.items():
        last = value[torch.arange(len(shown)), lengths].unsqueeze(1)
        held = value[:, 1:] == last
        expect(
            bool(held[padding].all()),
            f"{name}: {key!r} past the end does not repeat the last observation",
        )


def _check_labels(task: Task, shown: Demonstrations, least: float, name: str) -> None:
    expect(
        shown.success.dtype == torch.bool and shown.modes.dtype == torch.int64,
        f"{name}: success must be bool and modes int64, got {shown.success.dtype} and "
        f"{shown.modes.dtype}",
    )
    share = float(shown.success.float().mean())
    expect(share >= least, f"{name} succeeds in {share:.2f} of its episodes, below {least:.2f}")
    if task.num_modes is None:
        return
    low, high = int(shown.modes.min()), int(shown.modes.max())
    expect(
        low >= -1 and high < task.num_modes,
        f"{name} shows modes in [{low}, {high}], where the task has {task.num_modes}",
    )
    missing = (shown.mode_counts(task.num_modes) == 0).nonzero().flatten().tolist()
    expect(not missing, f"{name} shows no success of the modes {missing}")


def _check_shares(
    demonstrate: Callable[..., Demonstrations], num_modes: int, seed: int, name: str
) -> None:
    asked = num_modes - 1
    shown = demonstrate(2, seed, shares=torch.eye(num_modes)[asked])
    decided = shown.modes[shown.success]
    expect(
        bool((decided == asked).all()),
        f"{name} shows modes {decided.tolist()} where the shares ask for mode {asked} alone",
    )
