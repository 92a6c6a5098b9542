"""The battery for discoverers: what they observe, learn, restore and refuse."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey
from torchrl.collectors import Collector

from modereg.discovery import ModeDiscoverer
from modereg.errors import KeyMismatchError, NonFiniteError
from modereg.priors import CategoricalPrior
from modereg.testing._discoverer_learning import (
    check_bound,
    check_log_prob,
    check_names,
    check_partition,
)
from modereg.testing._discoverer_subject import MakeDiscoverer, Subject, refuses
from modereg.testing._expect import different_entry, expect, same_state
from modereg.testing._planted import Planted, random_features_env

__all__ = ["check_discoverer"]


def check_discoverer(
    make_discoverer: MakeDiscoverer,
    features: int | Mapping[NestedKey, Sequence[int]],
    *,
    episodes: int = 240,
    steps: int = 4,
    rounds: int = 12,
    agreement: float = 0.9,
    seed: int = 0,
) -> None:
    """Check that a discoverer keeps the contract of :class:`~modereg.discovery.ModeDiscoverer`.

    The rollouts have the discoverer's own keys, nested or not, and its prior's codes: straight
    paths to places that are far apart, one for each code.

    - ``observe`` returns None and copies what it keeps; calling it returns the very rollout,
      unchanged; ``[B, T]`` and flat ``[N]`` data are taken.
    - ``update`` returns finite numbers. Equal seeds give equal results, bit for bit.
    - ``log_prob`` is ``[*B, K]``, normalised, and leaves its argument alone (discrete codes).
    - A ``state_dict`` passes through ``torch.save`` and ``torch.load(weights_only=True)`` into a
      fresh discoverer, which goes on identically.
    - It learns: on fresh episodes the most likely code agrees with the behaviour (normalised mutual
      information of at least ``agreement``); for continuous codes the estimator's bound rises.
    - Renaming the codes changes nothing but names; a discoverer that reads codes names them so,
      needs them, and refuses those outside of the prior's support.
    - Rows outside of ``("collector", "mask")`` change nothing; missing features and NaN in them
      are refused, by ``observe`` or at the latest by ``update``.
    - As the ``postproc`` of a collector it learns what it learns from the same batches by hand.

    For nested keys run it once more with a factory that has them.

    Args:
        make_discoverer: makes a fresh, untrained discoverer; called under a fixed seed.
        features: length of its one feature, or the shape E of each entry ``[*B, *E]`` in the order
            of ``feature_keys``.
        episodes: episodes of one rollout, at least 20.
        steps: decisions of an episode, at least 2.
        rounds: calls of ``observe`` and ``update`` before it must have learned.
        agreement: see above.
        seed: of all that is random.

    Raises:
        AssertionError: with a sentence that says what is broken.
    """
    expect(
        episodes >= 20 and steps >= 2 and rounds >= 1,
        "give the check at least 20 episodes of 2 steps and a round, not "
        f"{episodes} of {steps} and {rounds}",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, second = make_discoverer(), make_discoverer()
        _check_construction(first, second)
        planted = Planted(first, _shapes(first, features), episodes, steps, seed)
        subject = Subject(make_discoverer, planted, rounds, seed, type(first).__name__)
        _check_observing(subject)
        _through_file(subject, first)
        _check_copies(subject)
        learned = _check_updates(subject)
        if isinstance(first.prior, CategoricalPrior):
            check_log_prob(subject, learned)
            check_partition(subject, learned, agreement)
            check_names(subject, learned, agreement)
        else:
            check_bound(subject, learned)
        _check_state(subject)
        _check_masks(subject)
        _check_refusals(subject)
        _check_postproc(subject)


def _check_construction(first: ModeDiscoverer, second: ModeDiscoverer) -> None:
    expect(
        isinstance(first, ModeDiscoverer),
        f"the factory made a {type(first).__name__}, which is no ModeDiscoverer",
    )
    name = type(first).__name__
    shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    expect(not shared, f"two {name} of one factory share parameters; make all of it afresh")


def _shapes(
    discoverer: ModeDiscoverer, features: int | Mapping[NestedKey, Sequence[int]]
) -> dict[NestedKey, tuple[int, ...]]:
    names = discoverer.feature_keys
    shapes = dict.fromkeys(names[:1], (features,)) if isinstance(features, int) else features
    expect(
        list(shapes) == list(names),
        f"{type(discoverer).__name__} reads {names}, but the check was given the shapes of "
        f"{list(shapes)}; pass features={{key: shape, ...}} in this order",
    )
    return {key: tuple(shape) for key, shape in shapes.items()}


def _check_observing(subject: Subject) -> None:
    name, rollout = subject.name, subject.planted.rollout(0)
    before = rollout.clone()
    expect(subject.fresh().observe(rollout) is None, f"{name}.observe must return nothing")
    subject.fresh().observe(rollout.reshape(-1))
    same = subject.fresh()(rollout) is rollout
    expect(same, f"{name} called on a rollout must return the very rollout, to be a postproc")
    changed = different_entry(before, rollout, rtol=0.0, atol=0.0)
    expect(changed is None, f"{name} changes {changed!r} of the rollouts that it observes")


def _check_copies(subject: Subject) -> None:
    rollout = subject.planted.rollout(0)
    expected = subject.learn(rollout.clone())
    same = same_state(expected, subject.learn(rollout.clone()))
    expect(same, f"{subject.name} learns two things from the same data under one seed")
    discoverer = subject.fresh()
    discoverer.observe(rollout)
    rollout.zero_()
    expect(
        same_state(expected, subject.updated(discoverer)),
        f"{subject.name} keeps a view of what it observed: overwriting the rollout afterwards, as "
        "collectors do, changes what it learns",
    )


def _check_updates(subject: Subject) -> ModeDiscoverer:
    discoverer = subject.fresh()
    for metrics in subject.train(discoverer):
        for key, value in metrics.items():
            number = isinstance(value, (int, float)) and math.isfinite(value)
            expect(
                isinstance(key, str) and number,
                f"{subject.name}.update must return finite numbers by name, got {key!r}: {value!r}",
            )
    return discoverer


def _check_state(subject: Subject) -> None:
    for trained in (False, True):
        original, restored = subject.fresh(), subject.fresh()
        if trained:
            subject.train(original)
        restored.load_state_dict(_through_file(subject, original))
        continued = []
        for discoverer in (original, restored):
            torch.manual_seed(subject.seed)
            discoverer.observe(subject.planted.rollout(3))
            continued.append([discoverer.update(), dict(discoverer.state_dict())])
        expect(
            same_state(*continued),
            f"{subject.name} restored from the state_dict of "
            f"{'a trained' if trained else 'a fresh'} one goes on differently",
        )


def _through_file(subject: Subject, discoverer: ModeDiscoverer) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(discoverer.state_dict(), file)
    file.seek(0)
    try:
        return dict(torch.load(file, weights_only=True))
    except Exception as error:
        raise AssertionError(
            f"the state_dict of {subject.name} holds more than plain tensors, numbers, lists and "
            f"dicts: torch.load(weights_only=True) says {error}"
        ) from error


def _check_masks(subject: Subject) -> None:
    clean, garbage = (subject.planted.padded(4, unreadable) for unreadable in (False, True))
    expected = subject.learn(clean)
    try:
        found = subject.learn(garbage)
    except Exception as error:
        raise AssertionError(
            f"{subject.name} reads rows that ('collector', 'mask') leaves out: {error}"
        ) from error
    expect(
        same_state(expected, found),
        f"{subject.name} learns from rows that ('collector', 'mask') leaves out",
    )


def _check_refusals(subject: Subject) -> None:
    planted, name = subject.planted, subject.name
    for key in planted.features:
        broken = planted.rollout(0)
        for entries in (broken, broken.get("next")):
            entries.get(key)[0, -1] = torch.nan
        expect(refuses(NonFiniteError, subject, broken), f"{name} learns from NaN under {key!r}")
        missing = planted.rollout(0).exclude(key)
        missing.set("next", missing.get("next").exclude(key))
        expect(
            refuses(KeyMismatchError, subject, missing), f"{name} takes rollouts without {key!r}"
        )


def _check_postproc(subject: Subject) -> None:
    collected, by_hand = subject.fresh(), subject.fresh()
    env = random_features_env(subject.planted, 16)
    collector = Collector(env, None, frames_per_batch=320, total_frames=640, postproc=collected)
    try:
        for batch in collector:
            by_hand.observe(batch.clone())
    finally:
        collector.shutdown()
    expect(
        same_state(subject.updated(collected), subject.updated(by_hand)),
        f"{subject.name} as a collector's postproc learns another thing than from the same batches "
        "by hand",
    )
