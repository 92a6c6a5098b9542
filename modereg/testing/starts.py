"""An episode starts afresh: nothing of the one before is left in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs import Compose, EnvBase, Transform, TransformedEnv

from modereg.testing._expect import expect
from modereg.testing.environments import CountingEnv

__all__ = ["check_starts"]

_LENGTHS = (3, 7, 4)


def check_starts(
    make_transform: Callable[[], Transform | Sequence[Transform]],
    make_env: Callable[[], EnvBase] = lambda: CountingEnv(_LENGTHS),
    *,
    steps: int = 9,
) -> None:
    """Check that no entry at the start of an episode remembers the episode before.

    The environment has to start every episode alike. Entries that differ between resets under four
    seeds, such as a code that is drawn, are left out; all others must have, at each later start,
    the values of the first, whichever rows of the batch are reset.

    Args:
        make_transform: makes a fresh transform, or a chain from the inside out.
        make_env: makes the environment, ``[B]``, by default :class:`CountingEnv`.
        steps: how many steps to take, over several episodes.

    Raises:
        AssertionError: with a sentence that names the entry.
    """
    with torch.random.fork_rng():
        env = _env(make_env, make_transform)
        first, *others = (_start(env, seed) for seed in range(4))
        alike = [key for key in first.keys(True, True) if _same(key, first, others)]
        root, started = env.reset(), 0
        for _ in range(steps):
            after, root = env.step_and_maybe_reset(env.rand_action(root))
            ended = after.get(("next", "done")).view(env.batch_size)
            _expect_alike(root[ended], first[ended], alike)
            started += int(ended.sum())
    expect(started > 0, f"no episode starts within {steps} steps; give more of them")


def _expect_alike(
    started: TensorDictBase, first: TensorDictBase, entries: Sequence[NestedKey]
) -> None:
    for key in entries:
        same = torch.allclose(started.get(key).double(), first.get(key).double(), atol=1e-5)
        expect(
            same,
            f"an episode that starts behind another has other values under {key!r} than the first: "
            "what was remembered has to go when a row is reset",
        )


def _env(
    make_env: Callable[[], EnvBase], make_transform: Callable[[], Transform | Sequence[Transform]]
) -> TransformedEnv:
    made = make_transform()
    chain = [made] if isinstance(made, Transform) else list(made)
    return TransformedEnv(make_env(), Compose(*chain))


def _start(env: EnvBase, seed: int) -> TensorDictBase:
    torch.manual_seed(seed)
    return env.reset()


def _same(key: NestedKey, first: TensorDictBase, others: Sequence[TensorDictBase]) -> bool:
    value = first.get(key)
    return isinstance(value, Tensor) and all(torch.equal(value, o.get(key)) for o in others)
