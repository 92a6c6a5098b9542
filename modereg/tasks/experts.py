"""What scripted experts share: who shows which mode, recording, and second attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from modereg.errors import ConfigurationError, ShapeError
from modereg.keys import ACTION, MODE, OBSERVATION, SUCCESS
from modereg.tasks.base import Demonstrations

__all__ = ["assign_modes", "collect", "record"]

MAX_ROUNDS = 20


def assign_modes(
    num_episodes: int,
    num_modes: int,
    shares: Tensor | Sequence[float] | None,
    generator: torch.Generator,
) -> Tensor:
    """Which mode each episode shall show, in random order, ``[num_episodes]`` int64.

    The counts are ``num_episodes * shares / sum(shares)``, rounded by the largest remainder; among
    equal remainders chance decides.

    Args:
        num_episodes: number of episodes.
        num_modes: number of modes ``M``.
        shares: ``[M]``, relative frequencies; None for equal ones.
        generator: source of randomness, on the CPU.

    Raises:
        ShapeError: if ``shares`` is not of shape ``[M]``.
        ConfigurationError: if a share is negative or all are 0.
    """
    weights = torch.ones(num_modes) if shares is None else torch.as_tensor(shares).float()
    if weights.shape != (num_modes,):
        raise ShapeError(f"shares must have shape [{num_modes}], got {list(weights.shape)}.")
    if (weights < 0).any() or weights.sum() <= 0:
        raise ConfigurationError(f"shares must be >= 0 and not all 0, got {weights.tolist()}.")
    quota = weights.double() / weights.sum() * num_episodes
    counts = quota.floor()
    remainder = quota - counts + 1e-6 * torch.rand(num_modes, generator=generator)
    counts[remainder.topk(num_episodes - int(counts.sum())).indices] += 1
    modes = torch.arange(num_modes).repeat_interleave(counts.long())
    return modes[torch.randperm(num_episodes, generator=generator)]


def record(
    env: EnvBase,
    max_steps: int,
    act: Callable[[TensorDictBase], tuple[Tensor, Tensor]],
) -> Demonstrations:
    """Runs one episode in each sub-environment and keeps the clean actions.

    Args:
        env: environment of batch size ``[N]`` that writes success and mode, and in which stepping a
            sub-environment that has ended changes nothing.
        max_steps: time limit ``T``.
        act: gives the executed and the clean action, ``[N, A]`` each, for the root tensordict.
    """
    root = env.reset()
    observations, actions = [root[OBSERVATION]], []
    lengths = torch.zeros(env.batch_size, dtype=torch.int64, device=env.device)
    for _ in range(max_steps):
        running = ~root["done"]
        executed, clean = act(root)
        root = env.step(root.empty().set(ACTION, executed))["next"]
        observations.append(root[OBSERVATION])
        actions.append(clean * running)
        lengths += running.squeeze(-1)
    return Demonstrations(
        observations={OBSERVATION: torch.stack(observations, 1)},
        actions=torch.stack(actions, 1),
        lengths=lengths,
        modes=root[MODE].squeeze(-1),
        success=root[SUCCESS].squeeze(-1),
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
    for name in ("actions", "lengths", "modes", "success"):
        getattr(target, name)[index] = getattr(source, name)
