"""What a discoverer must have learned from behaviours that are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modereg import functional
from modereg.discovery import ModeDiscoverer
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.testing._discoverer_subject import Subject, refuses
from modereg.testing._expect import different_entry, expect, same_state

__all__ = ["check_bound", "check_log_prob", "check_names", "check_partition"]


def check_log_prob(subject: Subject, discoverer: ModeDiscoverer) -> None:
    """Check form and normalisation of the posterior over codes."""
    name, number = subject.name, discoverer.prior.num_codes
    flat = subject.planted.ends(1)
    for data in (flat, flat[:6].reshape(2, 3)):
        before = data.clone()
        log_prob = discoverer.log_prob(data).detach()
        expected = (*data.batch_size, number)
        expect(
            tuple(log_prob.shape) == expected,
            f"{name}.log_prob has the shape {tuple(log_prob.shape)}, expected {expected}",
        )
        total = log_prob.double().logsumexp(-1)
        expect(
            torch.allclose(total, torch.zeros_like(total), atol=1e-4),
            f"{name}.log_prob is not normalised: its probabilities sum to up to "
            f"{float(total.exp().max()):.4g}",
        )
        changed = different_entry(before, data, rtol=0.0, atol=0.0)
        expect(changed is None, f"{name}.log_prob changes {changed!r} of what it reads")


def _likeliest(subject: Subject, discoverer: ModeDiscoverer) -> Tensor:
    with torch.no_grad():
        return discoverer.log_prob(subject.planted.ends(2)).argmax(-1)


def _agreement(found: Tensor, behaviours: Tensor, number: int) -> float:
    table = functional.contingency(behaviours, found, number, number)
    return float(functional.normalized_mutual_information(table))


def check_partition(subject: Subject, discoverer: ModeDiscoverer, least: float) -> None:
    """Check that codes and planted behaviours agree by at least this NMI."""
    behaviours = subject.planted.behaviours(2)
    number = discoverer.prior.num_codes or 1
    found = _agreement(_likeliest(subject, discoverer), behaviours, number)
    expect(
        found >= least,
        f"{subject.name} does not tell behaviours apart after {subject.rounds} updates: on fresh "
        f"episodes its codes agree with them by {found:.3f} (normalised mutual information), below "
        f"{least:.3f}",
    )


def check_names(subject: Subject, discoverer: ModeDiscoverer, least: float) -> None:
    """Train once more on renamed codes, and compare what was learned."""
    renamed = subject.fresh()
    subject.train(renamed, shift=1)
    if same_state(dict(discoverer.state_dict()), dict(renamed.state_dict())):
        return  # it reads no codes
    check_partition(subject, renamed, least)
    for made, shift in ((discoverer, 0), (renamed, 1)):
        hits = _likeliest(subject, made) == subject.planted.codes(2, shift)
        expect(
            float(hits.float().mean()) >= least,
            f"{subject.name} does not give behaviours the names of their codes: "
            f"{float(hits.float().mean()):.3f} of fresh episodes have theirs",
        )
    _check_support(subject)


def _check_support(subject: Subject) -> None:
    name, key = subject.name, subject.planted.latent_key
    outside = subject.planted.rollout(0)
    outside.get(key)[0] = subject.fresh().prior.num_codes or 0
    expect(
        refuses(ConfigurationError, subject, outside),
        f"{name} takes codes from outside of the prior's support; modereg.estimators.check_support "
        "refuses them",
    )
    expect(
        refuses(KeyMismatchError, subject, subject.planted.rollout(0).exclude(key)),
        f"{name} learns from the codes, but takes rollouts without {key!r}; "
        "modereg.reading.require refuses them",
    )


def check_bound(subject: Subject, discoverer: ModeDiscoverer) -> None:
    """Check that learning raised the estimator's bound on fresh data."""
    data = subject.planted.ends(2)
    with torch.no_grad():
        bounds = [float(made.estimator.bound(data)) for made in (subject.fresh(), discoverer)]
    expect(
        math.isfinite(bounds[1]) and bounds[1] > bounds[0] + 0.1,
        f"{subject.name} does not learn in {subject.rounds} updates: on fresh episodes its bound "
        f"went from {bounds[0]:.3f} to {bounds[1]:.3f} nats",
    )
