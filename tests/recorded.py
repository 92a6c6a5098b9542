"""What the tests of recordings share: the first episode of each row of a live run, in steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from modereg import keys

__all__ = ["first_episodes", "recorded"]


def first_episodes(batch: TensorDictBase) -> list[TensorDictBase]:
    """Return the decisions of the first episode of each row of a batch ``[B, T]``."""
    ends = batch["next", "done"].squeeze(-1).long().argmax(1)
    return [row[: int(end) + 1] for row, end in zip(batch.unbind(0), ends)]


def recorded(batch: TensorDictBase, make_env: Callable[[int], EnvBase]) -> list[dict[str, Any]]:
    """Return the first episode of each row as it would have been recorded, step by step.

    Args:
        batch: decisions ``[B, T]`` of a steered environment.
        make_env: returns the environment of a row, unbatched, whose steps are environment steps.
    """
    return [_steps(episode, make_env(row)) for row, episode in enumerate(first_episodes(batch))]


def _steps(episode: TensorDictBase, env: EnvBase) -> dict[str, Any]:
    played = [
        actions[: int(steps)]
        for actions, steps in zip(
            episode["next", keys.EXECUTED], episode["next", keys.STEPS].flatten()
        )
    ]
    root, rewards = env.reset(), []
    names = list(env.observation_spec.keys(True, True))
    shown = [root.select(*names)]
    for action in torch.cat(played):
        step = env.step(root.set(keys.ACTION, action))
        root = env.step_mdp(step)
        rewards.append(step["next", keys.REWARD])
        shown.append(root.select(*names))
    return {
        **torch.stack(shown).to_dict(),
        "action": torch.cat(played),
        "reward": torch.cat(rewards),
        "terminated": root["terminated"],
    }
