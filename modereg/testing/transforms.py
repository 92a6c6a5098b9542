"""One battery for every transform, in every context where TorchRL uses one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeGuard, get_args

import torch
from tensordict import TensorDictBase
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import (
    Compose,
    EnvBase,
    GymWrapper,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    StepCounter,
    Transform,
    TransformedEnv,
)
from torchrl.envs.utils import check_env_specs

from modereg.testing._expect import expect
from modereg.testing.environments import CountingEnv, counting_gym

__all__ = ["CONTEXTS", "Context", "check_transform", "check_transformed_env"]

Context = Literal[
    "unbatched",
    "batched",
    "composed",
    "serial_inside",
    "serial_outside",
    "parallel_inside",
    "parallel_outside",
    "gymnasium",
    "gymnasium_serial",
    "gymnasium_same_step",
    "gymnasium_disabled",
    "float64",
]
"""Where the battery puts a transform."""

CONTEXTS: tuple[Context, ...] = tuple(c for c in get_args(Context) if "parallel" not in c)
"""The contexts that need no other processes."""

_LENGTHS = (3, 7, 4)

MakeTransforms = Callable[[], Transform | Sequence[Transform]]
MakeEnv = Callable[[], EnvBase]


def check_transform(
    make_transform: MakeTransforms,
    *,
    make_env: MakeEnv | None = None,
    contexts: Sequence[Context] = CONTEXTS,
    steps: int = 5,
) -> None:
    """Run the battery over a transform, or over a chain of which the last one is meant.

    The environments end after 3, 7 and 4 steps, so a chunk ends early in some rows and not in
    others; they return NaN, or raise, when they are stepped after their end. In each context
    :func:`check_transformed_env` must pass.

    Args:
        make_transform: makes a fresh transform, or the chain from the inside out that it needs.
        make_env: makes the environment for the contexts "unbatched", "batched", "composed", the
            serial and the parallel ones; None takes :class:`CountingEnv`, or its Gymnasium twin.
        contexts: where to put it. The parallel ones start processes, which takes seconds.
        steps: length of the rollouts.

    Raises:
        AssertionError: with a sentence that says in which context what is broken.
    """
    for context in contexts:
        env = _build(context, make_transform, make_env)
        try:
            check_transformed_env(env, _chain(make_transform), steps=steps, name=context)
        finally:
            env.close(raise_if_closed=False)


def check_transformed_env(
    env: EnvBase,
    chain: Sequence[Transform] = (),
    *,
    steps: int = 5,
    name: str = "the environment",
) -> None:
    """Check one transformed environment, and fresh transforms on the data it returns.

    - Specs and data agree (``check_env_specs``).
    - Rollouts over several episodes are finite; the row after an end starts an episode.
    - The same seed gives the same rollout, and ``state_dict`` survives a round trip and holds no
      parameters.
    - Called as modules on the rollout, and appended to a replay buffer, the fresh transforms give
      what was collected; an unattached inverse changes nothing.

    Args:
        env: the environment; transformed at some level.
        chain: fresh, unattached transforms like those in the environment.
        steps: length of the rollouts.
        name: how to call it in messages.

    Raises:
        AssertionError: with a sentence that says what is broken.
    """
    try:
        check_env_specs(env)
    except Exception as error:
        raise AssertionError(f"in context {name}, specs and data disagree: {error}") from error
    _rollout(env, steps)  # TorchRL's first full reset after a partial end returns stale rows
    rollout = _rollout(env, steps)
    _check_rollout(rollout, name)
    again = _rollout(env, steps)
    expect(_equal(rollout, again), f"in context {name}, one seed gives two rollouts")
    _check_state(env, name)
    _check_fresh(chain, rollout, name)


def _chain(make_transform: MakeTransforms) -> list[Transform]:
    made = make_transform()
    return [made] if isinstance(made, Transform) else list(made)


def _attach(env: EnvBase, chain: Sequence[Transform]) -> EnvBase:
    """Wrap, or append to a Gymnasium wrapper that TorchRL has transformed already."""
    env = env if isinstance(env, TransformedEnv) else TransformedEnv(env, Compose())
    for transform in chain:
        env.append_transform(transform)
    return env


def _attached(make_env: MakeEnv, make_transform: MakeTransforms) -> EnvBase:
    return _attach(make_env(), _chain(make_transform))


def _gym(length: int) -> EnvBase:
    return GymWrapper(counting_gym(length))


def _vector_gym(mode: str) -> EnvBase:
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    makers = [partial(counting_gym, length) for length in _LENGTHS]
    return GymWrapper(SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode]))


def _build(context: Context, make_transform: MakeTransforms, make_env: MakeEnv | None) -> EnvBase:
    counting: list[MakeEnv] = [partial(CountingEnv, length) for length in _LENGTHS]
    gyms: list[MakeEnv] = [partial(_gym, length) for length in _LENGTHS]
    singles = counting if make_env is None else [make_env] * 2
    workers = [partial(_attached, maker, make_transform) for maker in singles]
    if context == "serial_inside":
        return SerialEnv(len(workers), workers)
    if context == "parallel_inside":
        return ParallelEnv(2, workers[:2])
    bare: dict[Context, MakeEnv] = {
        "unbatched": singles[0],
        "batched": make_env or partial(CountingEnv, _LENGTHS),
        "composed": make_env or partial(CountingEnv, _LENGTHS),
        "serial_outside": lambda: SerialEnv(len(singles), singles),
        "parallel_outside": lambda: ParallelEnv(2, singles[:2]),
        "gymnasium": gyms[0],
        "gymnasium_serial": lambda: SerialEnv(len(gyms), gyms),
        "gymnasium_same_step": partial(_vector_gym, "SAME_STEP"),
        "gymnasium_disabled": partial(_vector_gym, "DISABLED"),
        "float64": partial(CountingEnv, _LENGTHS, dtype=torch.float64),
    }
    if context not in bare:
        raise ValueError(f"expected one of {get_args(Context)}, got {context!r}")
    env = bare[context]()
    if context == "composed":
        chain = [StepCounter(), *_chain(make_transform), RewardSum(in_keys=list(env.reward_keys))]
        return _attach(env, chain)
    return _attach(env, _chain(make_transform))


def _rollout(env: EnvBase, steps: int) -> TensorDictBase:
    env.set_seed(0)
    torch.manual_seed(0)
    return env.rollout(steps, break_when_any_done=False)


def _check_rollout(rollout: TensorDictBase, name: str) -> None:
    for key, value in rollout.items(True, True):
        if _is_tensor(value) and value.is_floating_point():
            expect(
                bool(torch.isfinite(value).all()),
                f"in context {name}, {key!r} holds values that are not finite: data from after the "
                "end of an episode were used",
            )
    done = rollout.get(("next", "done"), None)
    if done is not None:
        expect(
            bool(done.any()), f"in context {name}, no episode ends in the rollout; make it longer"
        )
        expect(
            not bool(rollout.get("done").any()),
            f"in context {name}, an episode starts in a root that is done",
        )


def _equal(first: TensorDictBase, second: TensorDictBase) -> bool:
    keys = set(first.keys(True, True))
    if keys != set(second.keys(True, True)):
        return False
    pairs = [(first.get(key), second.get(key)) for key in keys]
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs if _is_tensor(a))


def _is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    return isinstance(value, torch.Tensor)


def _check_state(env: EnvBase, name: str) -> None:
    if not isinstance(env, TransformedEnv):
        return
    expect(
        not list(env.transform.parameters()),
        f"in context {name}, the environment holds parameters; keep shared networks out of its "
        "submodules",
    )
    before = {key: value.clone() for key, value in env.state_dict().items()}
    env.load_state_dict(before)
    after = env.state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    expect(same, f"in context {name}, the state_dict does not survive a round trip")


def _check_fresh(chain: Sequence[Transform], rollout: TensorDictBase, name: str) -> None:
    flat = rollout.reshape(-1).contiguous()
    for transform in chain:
        kind = type(transform).__name__
        inverted = transform.inv(flat.clone())
        expect(_equal(inverted, flat), f"in context {name}, the unattached inverse of {kind} acts")
        called = transform(rollout.clone())
        expect(
            _equal(called, rollout),
            f"in context {name}, {kind} as a module on a rollout gives other data than in the "
            "environment",
        )
        expect(
            _equal(_through_buffer(transform, flat), flat),
            f"in context {name}, {kind} in a replay buffer gives other data than were collected",
        )


def _through_buffer(transform: Transform, flat: TensorDictBase) -> TensorDictBase:
    """Store transitions ``[N]`` and sample each once; return them in their order."""
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(len(flat)),
        sampler=SamplerWithoutReplacement(),
        batch_size=len(flat),
    )
    buffer.append_transform(transform)
    buffer.extend(flat.clone().set("_row", torch.arange(len(flat), device=flat.device)))
    sample = buffer.sample()
    return sample[sample.get("_row").argsort()].select(*flat.keys(True, True))
