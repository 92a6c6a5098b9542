"""What a decision of several steps returns, against the same steps one by one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import Transform, TransformedEnv

from modereg import keys
from modereg.testing._expect import expect
from modereg.testing.environments import CountingEnv

__all__ = ["check_chunk"]

MakeChunk = Callable[..., Transform]

_LENGTHS = (3, 7, 4)
_LAYOUTS = ((3, 0, 1.0), (3, 0, 0.5), (2, 1, 0.5), (1, 0, 0.5))


def check_chunk(make_chunk: MakeChunk) -> None:
    """Check that open-loop execution is the same as stepping with each action of the window.

    A twin of the environment plays the actions one by one until its episode ends. The decision must
    have the discounted sum of the rewards, the observation of the last step that was played, its
    end, and the number of steps; with and without discount, with skipped actions, and where an
    episode ends within a chunk.

    Args:
        make_chunk: called as ``ActionChunk(execute, offset, gamma)``.

    Raises:
        AssertionError: with a sentence that says what is broken.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for execute, offset, gamma in _LAYOUTS:
            for length in _LENGTHS:
                transform = make_chunk(execute, offset, gamma)
                _check_episode(transform, length, execute, offset, gamma)


def _check_episode(
    transform: Transform, length: int, execute: int, offset: int, gamma: float
) -> None:
    env, twin = TransformedEnv(CountingEnv([length]), transform), CountingEnv([length])
    words = f"with execute={execute}, offset={offset} and gamma={gamma:g}"
    root, single = env.reset(), twin.reset()
    for _ in range(length):
        decided = env.rand_action(root)
        window = decided[keys.ACTION][:, offset : offset + execute].clone()
        following = env.step(decided)["next"]
        single, reward, steps = _play(twin, single, window, gamma)
        _expect_same(words, following, single, reward, steps)
        if bool(single["done"].any()):
            return
        root = env.step_mdp(decided.set("next", following))


def _play(
    twin: CountingEnv, root: TensorDictBase, window: Tensor, gamma: float
) -> tuple[TensorDictBase, Tensor, int]:
    """Play a window ``[1, execute, A]`` and return the end, the discounted sum and the steps."""
    total, steps = torch.zeros(1, 1), 0
    for action in window.unbind(1):
        after = twin.step(root.set(keys.ACTION, action))["next"]
        total, steps = total + gamma**steps * after[keys.REWARD], steps + 1
        root = after.exclude(keys.REWARD)
        if bool(after["done"].any()):
            break
    return root, total, steps


def _expect_same(
    words: str, decision: TensorDictBase, single: TensorDictBase, reward: Tensor, steps: int
) -> None:
    paid = decision[keys.REWARD]
    expect(
        paid.shape == reward.shape and torch.allclose(paid, reward, atol=1e-5),
        f"{words}, a decision of {steps} steps is rewarded {paid.flatten().tolist()}, where the "
        f"discounted sum of its steps is {reward.flatten().tolist()}",
    )
    expect(
        torch.allclose(decision[keys.OBSERVATION], single[keys.OBSERVATION], atol=1e-5),
        f"{words}, the observation after a decision is not that of its last step",
    )
    expect(
        torch.equal(decision["done"], single["done"]),
        f"{words}, a decision ends where its steps do not, or the other way round",
    )
    expect(
        decision[keys.STEPS].flatten().tolist() == [steps],
        f"{words}, a decision of {steps} steps reports {decision[keys.STEPS].flatten().tolist()}",
    )
