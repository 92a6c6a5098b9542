"""What scripted experts share: demonstrations, who shows which mode, and second attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError, ShapeError
from modereg.keys import ACTION, MODE, OBSERVATION, REWARD, SUCCESS
from modereg.tasks.base import Demonstrations

__all__ = ["Expert", "assign_modes", "collect", "demonstrate", "record"]

MAX_ROUNDS = 20

Expert = Callable[[TensorDictBase], Tensor]
"""From what an environment shows to its actions."""


def demonstrate(
    make_env: Callable[..., EnvBase],
    lead: Callable[[Any, Tensor, torch.Generator], Expert],
    num_modes: int,
    num_episodes: int,
    seed: int,
    shares: Tensor | Sequence[float] | None = None,
    *,
    action_noise: float = 0.3,
    keep_failures: bool = False,
    observed: Sequence[NestedKey] = (OBSERVATION,),
) -> Demonstrations:
    """Episodes of an expert that executes noisy actions and notes clean ones, all in one batch.

    Args:
        make_env: called as ``make_env(num_envs, seed=...)``; the environment has ``max_steps``.
        lead: called as ``lead(env, modes, generator)`` with the environment as it was reset and the
            modes ``[N]`` to show; returns the expert, which gives clean actions ``[N, A]``.
        num_modes: number of modes ``M``.
        num_episodes: number of episodes ``N``.
        seed: seed of everything that is random here.
        shares: ``[M]``, relative frequencies of the modes; None for equal ones.
        action_noise: standard deviation of the noise on executed actions, in units of the largest
            action.
        keep_failures: keep the first attempts, whatever came of them. Else failed episodes are
            repeated, and all ``N`` succeed in the mode that was asked for.
        observed: entries of the observation that are stored.

    Raises:
        ShapeError: if ``shares`` is not of shape ``[M]``.
        ConfigurationError: if they are no shares, or the noise lets episodes fail again and again.
    """
    generator = torch.Generator().manual_seed(seed)

    def run(modes: Tensor) -> Demonstrations:
        env: Any = make_env(len(modes), seed=int(torch.randint(2**31, (), generator=generator)))
        start, largest = env.reset(), env.action_spec.space.high
        expert = lead(env, modes, generator)

        def act(root: TensorDictBase) -> tuple[Tensor, Tensor]:
            clean = expert(root)
            noise = torch.randn(clean.shape, generator=generator).to(clean.device)
            return clean + noise * action_noise * largest, clean

        return record(env, start, act, env.max_steps, observed)

    modes = assign_modes(num_episodes, num_modes, shares, generator)
    return collect(run, modes, keep_failures=keep_failures)


def assign_modes(
    num_episodes: int,
    num_modes: int,
    shares: Tensor | Sequence[float] | None,
    generator: torch.Generator,
    ties: torch.Generator | None = None,
) -> Tensor:
    """Which mode each episode shall show, in random order, ``[num_episodes]`` int64.

    The counts are ``num_episodes * shares / sum(shares)``, rounded by the largest remainder; among
    equal remainders chance decides.

    Args:
        num_episodes: number of episodes.
        num_modes: number of modes ``M``.
        shares: ``[M]``, relative frequencies; None for equal ones.
        generator: source of randomness, on the CPU.
        ties: decides among equal remainders; None: ``generator``.

    Raises:
        ShapeError: if ``shares`` is not of shape ``[M]``.
        ConfigurationError: if a share is negative or not finite, or all are 0.
    """
    weights = torch.ones(num_modes) if shares is None else torch.as_tensor(shares).float()
    expected = f"expected shares of the {num_modes} modes, finite, >= 0 and not all 0"
    if weights.shape != (num_modes,):
        raise ShapeError(f"{expected}, got shape {list(weights.shape)}; give one number a mode.")
    if not (weights.isfinite().all() and (weights >= 0).all() and weights.sum() > 0):
        raise ConfigurationError(f"{expected}, got {weights.tolist()}; change them.")
    quota = weights.double() / weights.sum() * num_episodes
    counts = quota.floor()
    remainder = quota - counts + 1e-6 * torch.rand(num_modes, generator=ties or generator)
    counts[remainder.topk(num_episodes - int(counts.sum())).indices] += 1
    modes = torch.arange(num_modes).repeat_interleave(counts.long())
    return modes[torch.randperm(num_episodes, generator=generator)]


def record(
    env: EnvBase,
    start: TensorDictBase,
    act: Callable[[TensorDictBase], tuple[Tensor, Tensor]],
    max_steps: int,
    observed: Sequence[NestedKey] = (OBSERVATION,),
) -> Demonstrations:
    """Runs one episode in each sub-environment and keeps clean and executed actions.

    Args:
        env: environment of batch size ``[N]`` that writes success and mode, and in which stepping a
            sub-environment that has ended changes nothing.
        start: what its reset returned.
        act: gives the executed and the clean action, ``[N, A]`` each, for the root tensordict.
        max_steps: time limit ``T``.
        observed: entries of the observation that are stored.
    """
    root, seen, actions, played, rewards = start, [start], [], [], []
    lengths = torch.zeros(env.batch_size, dtype=torch.int64, device=env.device)
    for _ in range(max_steps):
        running = ~root["done"]
        executed, clean = act(root)
        root = env.step(root.empty().set(ACTION, executed))["next"]
        seen.append(root)
        actions.append(clean * running)
        played.append(executed * running)
        rewards.append((root[REWARD] * running).squeeze(-1))
        lengths += running.squeeze(-1)
    return Demonstrations(
        observations={key: torch.stack([each[key] for each in seen], 1) for key in observed},
        actions=torch.stack(actions, 1),
        lengths=lengths,
        modes=root[MODE].squeeze(-1),
        success=root[SUCCESS].squeeze(-1),
        played=torch.stack(played, 1),
        rewards=torch.stack(rewards, 1),
        terminated=root["terminated"].squeeze(-1),
    )


def collect(
    run: Callable[[Tensor], Demonstrations], modes: Tensor, *, keep_failures: bool
) -> Demonstrations:
    """Lets the expert show ``modes`` ``[N]``, and again where it failed or showed another mode.

    Args:
        run: plays one episode for each entry of the modes it is given.
        modes: ``[N]`` int64.
        keep_failures: return the first attempts, whatever came of them.

    Raises:
        ConfigurationError: if some episodes fail again and again.
    """
    result = run(modes)
    for _ in range(0 if keep_failures else MAX_ROUNDS):
        failed = (~result.success | (result.modes != modes)).nonzero().squeeze(-1)
        if len(failed) == 0:
            break
        _replace(result, failed, run(modes[failed]))
    if not keep_failures and not bool((result.success & (result.modes == modes)).all()):
        raise ConfigurationError(
            f"The expert still fails in some of {len(modes)} episodes after {MAX_ROUNDS} attempts; "
            "lower its noise."
        )
    return result


def _replace(target: Demonstrations, index: Tensor, source: Demonstrations) -> None:
    for key, value in source.observations.items():
        target.observations[key][index] = value
    for entry in fields(target):
        if isinstance(value := getattr(target, entry.name), Tensor):
            value[index] = getattr(source, entry.name)
