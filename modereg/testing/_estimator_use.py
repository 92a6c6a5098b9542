"""An estimator in the hands of those who use it: the reward, and the discoverer."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from tensordict import TensorDict

from modereg.discovery import VariationalModeDiscoverer
from modereg.reading import in_next
from modereg.testing._estimator_loss import trained_parameters
from modereg.testing._estimator_subject import Subject
from modereg.testing._expect import expect
from modereg.transforms import MIReward

__all__ = ["check_use"]


def check_use(subject: Subject) -> None:
    """Check that the reward is the clamped, scaled ratio, and that a discoverer trains it."""
    _check_reward(subject, "dense")
    _check_reward(subject, "final")
    if trained_parameters(subject.make()):
        _check_discoverer(subject)


def _transitions(subject: Subject, rows: int) -> TensorDict:
    """Draw transitions ``[2, T]`` with features in both places."""
    flat, after = torch.randn(2, 2, rows, subject.width, device=subject.device)
    data = subject.pack(flat, subject.codes(2, rows), after)
    done = torch.zeros(2, rows, 1, dtype=torch.bool, device=subject.device)
    done[:, rows // 2 - 1 :: rows // 2] = True
    data["next", "reward"] = torch.ones(2, rows, 1, device=subject.device)
    for key in ("done", "terminated"):
        data["next", key] = done.clone()
    return data


def _check_reward(subject: Subject, timing: Literal["dense", "final"]) -> None:
    estimator, data = subject.make(), _transitions(subject, 8)
    paid = MIReward(estimator, timing=timing, gamma=0.9, coef=0.5)(data.clone())["next"]
    seen = data.select(subject.latent_key)
    for key in subject.shapes:
        seen.set(key, data.get(in_next(key) if estimator.source == "next" else key))
    limit = estimator.upper_limit
    with torch.no_grad():
        ratio = estimator.log_ratio(seen).clamp(-limit, limit)
    wanted = ratio / estimator.scale if estimator.scale > 0 else torch.zeros_like(ratio)
    if timing == "final":
        wanted = 0.9 * wanted * data["next", "done"].squeeze(-1)
    reward = data["next", "reward"] + 0.5 * wanted.unsqueeze(-1)
    expect(
        torch.allclose(paid["mi_reward"].squeeze(-1), wanted, rtol=1e-4, atol=1e-5)
        and torch.allclose(paid["regularized_reward"], reward, rtol=1e-4, atol=1e-5),
        f"{subject.name} in MIReward(timing={timing!r}) is not paid as its log_ratio within plus "
        "and minus its upper_limit, over its scale",
    )


def _check_discoverer(subject: Subject) -> None:
    estimator = subject.make()
    discoverer = VariationalModeDiscoverer(estimator, steps=2, batch_size=16)
    discoverer.observe(_transitions(subject, 8))
    before = copy.deepcopy(trained_parameters(estimator))
    figures = discoverer.update()
    after = trained_parameters(estimator)
    expect(
        "loss" in figures and "bound" in figures,
        f"{subject.name} in VariationalModeDiscoverer reports {sorted(figures)}, without a loss or "
        "a bound",
    )
    same = all(torch.equal(before[name], after[name]) for name in before)
    expect(
        not same,
        f"{subject.name} is not trained by VariationalModeDiscoverer.update",
    )
