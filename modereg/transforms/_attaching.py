"""What every transform is asked when it is attached: its place in the chain, and what it writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tensordict import NestedKey
from torchrl.envs import EnvBase, StepCounter, Transform

from modereg import keys
from modereg._torchrl import inner_transforms
from modereg.errors import ConfigurationError
from modereg.transforms._common import transforms_within

__all__ = ["ORDER", "check_attached", "check_order"]

ORDER = (
    ("ObservationStack", "TimeLimit", "StepCounter", "FrameSkipTransform"),
    ("ActionChunk",),
    ("NoiseAction", "History", "LatentConditioner"),
    ("MIReward", "NoveltyReward"),
)
"""Which transforms stand where, from the inside out; those of one place may change places.

The first see single environment steps, those behind ActionChunk decisions, and the rewards read
what stands before them. Transforms that are not named mean the same everywhere, and so does a
StepCounter that only counts.
"""


def check_attached(transform: Transform, written: Mapping[str, NestedKey | None]) -> None:
    """Refuse a transform at the wrong place, or one that would replace entries that are there.

    Raises:
        ConfigurationError: if the order would change what a transform means, or an entry is there.
    """
    env = transform.parent
    if env is None:
        return
    inner, below = inner_transforms(transform)
    check_order([*transforms_within(below, inner), transform])
    if _place(transform) == 0 and keys.STEPS in env.full_observation_spec.keys(True, True):
        _refuse_order(transform, "the environment steps of ActionChunk")
    for option, key in written.items():
        if key is not None and any(_overlap(key, there) for there in _entries(env)):
            name = type(transform).__name__
            raise ConfigurationError(
                f"expected an environment without the entry {key!r}, which {name} writes, got one "
                f"that has it; rename the environment's entry (RenameTransform), or give {name} "
                f"another {option}"
            )


def check_order(chain: Iterable[Transform]) -> None:
    """Refuse a chain of transforms, from the inside out, whose order changes what they mean.

    Raises:
        ConfigurationError: with the order of those in it that is right.
    """
    reached, outermost = -1, None
    for member in chain:
        place = _place(member)
        if place is not None and place < reached:
            _refuse_order(member, type(outermost).__name__)
        if place is not None:
            reached, outermost = place, member


def _refuse_order(outer: Transform, inner: str) -> None:
    right = " | ".join(", ".join(names) for names in ORDER)
    raise ConfigurationError(
        f"expected transforms in the order {right}, from the inside out, got "
        f"{type(outer).__name__} outside of {inner}, where it would mean something else; put it "
        "inside"
    )


def _place(transform: Transform) -> int | None:
    """Return the place of a transform, or of the class that it is made from; None for any."""
    if isinstance(transform, StepCounter) and transform.max_steps is None:
        return None
    for kind in type(transform).__mro__:
        if kind.__module__.partition(".")[0] in ("modereg", "torchrl"):
            for place, names in enumerate(ORDER):
                if kind.__name__ in names:
                    return place
    return None


def _entries(env: EnvBase) -> list[NestedKey]:
    specs = (
        env.full_observation_spec,
        env.full_state_spec,
        env.full_action_spec,
        env.full_reward_spec,
        env.full_done_spec,
    )
    return [key for spec in specs for key in spec.keys(True, True)]


def _overlap(first: NestedKey, second: NestedKey) -> bool:
    """Return whether two keys are the same, or one names an entry within the other."""
    a, b = ((key,) if isinstance(key, str) else key for key in (first, second))
    shared = min(len(a), len(b))
    return a[:shared] == b[:shared]
