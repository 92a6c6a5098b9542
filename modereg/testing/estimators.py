"""One battery for every estimator, of ours or of a third party."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from tensordict import NestedKey

from modereg.testing._estimator_form import check_errors, check_form
from modereg.testing._estimator_learning import Training, check_learning
from modereg.testing._estimator_loss import check_loss
from modereg.testing._estimator_subject import MakeEstimator, make_subject
from modereg.testing._estimator_use import check_use
from modereg.testing._estimator_values import check_values

__all__ = ["check_estimator"]


def check_estimator(
    make_estimator: MakeEstimator,
    features: int | Mapping[NestedKey, Sequence[int]],
    *,
    posterior: bool = False,
    idle: Collection[str] = (),
    learn: bool = True,
    steps: int = 200,
    lr: float = 1e-2,
    rows: int = 2048,
    least_share: float = 0.7,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> None:
    r"""Check that an estimator keeps what the rest relies on.

    The estimator is made anew for each check, always from the same seed; torch's generator is put
    back at the end. Of an estimator that claims less, less is checked.

    - Form: for batches of any shape, also empty and nested, ``log_ratio`` and ``sample_loss`` have
      the batch's shape, the features' device and the parameters' dtype; float64 agrees with
      float32. A row does not depend on the others. Reading is deterministic, draws no random
      numbers, does not hang on the training mode, and leaves the tensordict as it is. ``loss`` is
      the mean of ``sample_loss``, ``bound`` within its error the mean of ``log_ratio`` (lower
      bounds), ``figures`` holds numbers, among them the bound; only a bound may draw samples.
    - Values: ``log_ratio`` never exceeds ``upper_limit`` and is never NaN, for features of size 1e4
      and parameters thirty times their size too. For discrete codes ``log_prob`` sums to one and
      ranks the codes as ``log_ratio + log p(z)`` does, or equals it (``posterior``).
    - Loss: finite gradients, on wild features too, that reach every parameter which asks for one,
      but none of the prior's. Noise of :class:`~modereg.networks.InputNoise` is on the loss (but
      for one that learns from transitions, where it may be left out) and on nothing else.
      ``log_ratio`` follows the parameters at once and survives ``state_dict`` and deepcopy.
    - Use: :class:`~modereg.transforms.MIReward` pays the ratio within plus and minus the limit over
      ``scale``; :class:`~modereg.discovery.VariationalModeDiscoverer` trains it.
    - Learning, all read on fresh data: a code is paid more with its own features than with those of
      another. Lower bounds moreover report at most three standard errors more than 0 for
      independent codes, before and after training, about 0 where the features are always the same,
      at most I(Z; S) for a known channel, and at least ``least_share`` of it (or of
      ``upper_limit``, where that is smaller), for discrete codes with and without errors in the
      channel; codes of equal probability may change names.
    - Errors, last of all, so that a convention hides no fault of meaning: a missing entry raises
      :class:`~modereg.errors.KeyMismatchError`, a code outside the prior's support
      :class:`~modereg.errors.ConfigurationError`.

    Args:
        make_estimator: makes a fresh estimator; its features are read at the root, ``[*B, *E]``.
        features: length of its one feature, or the shape E of each entry in the order of
            ``in_keys``.
        posterior: whether p(z) e^log_ratio is a distribution over discrete codes, as it is where q
            is a classifier; not so for one that compares a code with samples.
        idle: names of parameters that the loss need not reach.
        learn: whether to train at all; without it the check takes a fraction of a second.
        steps: optimiser steps of each training, of 256 rows.
        lr: learning rate of Adam.
        rows: how many rows are drawn to train on and, afresh, to read.
        least_share: see above; in (0, 1).
        seed: of parameters and data.
        device: where the estimator and the data are put.

    Raises:
        AssertionError: with a sentence that says what is broken.
        ValueError: if ``features`` are not those that the estimator reads, or all that
            ``make_estimator`` makes share parameters.
    """
    with torch.random.fork_rng():
        subject = make_subject(make_estimator, features, seed, device)
        check_form(subject)
        check_values(subject, posterior)
        check_loss(subject, idle)
        check_use(subject)
        if learn:
            check_learning(subject, Training(steps, lr, rows, least_share))
        check_errors(subject)
