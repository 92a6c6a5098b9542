"""The loss of an estimator: its gradients, and its noise, which is on the loss alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modereg.estimators import RewardEstimator
from modereg.networks import InputNoise
from modereg.testing._estimator_subject import Subject
from modereg.testing._expect import expect

__all__ = ["check_loss", "trained_parameters"]

_BATCHES = 4


def check_loss(subject: Subject, idle: Collection[str]) -> None:
    """Check gradients, noise, and that reading sees every step of the optimiser."""
    for scale in (1.0, 1e4):
        missed = _check_gradients(subject, scale) - set(idle)
        expect(
            scale > 1.0 or not missed,
            f"{subject.name}.loss passes no gradient to {sorted(missed)}: look for an argmax, a "
            "rounding or a detach on the way, or name them in idle",
        )
    _check_noise(subject)
    _check_reading_is_current(subject)


def trained_parameters(estimator: RewardEstimator) -> dict[str, nn.Parameter]:
    """Return the parameters that the loss has to reach: all but the prior's."""
    prior = estimator.prior
    kept = set(map(id, prior.parameters())) if isinstance(prior, nn.Module) else set()
    return {
        name: parameter
        for name, parameter in estimator.named_parameters()
        if parameter.requires_grad and id(parameter) not in kept
    }


def _check_gradients(subject: Subject, scale: float) -> set[str]:
    """Check gradients over some batches, and return the parameters that none has reached."""
    estimator = subject.make()
    trained = trained_parameters(estimator)
    missed = set(trained)
    for _ in range(_BATCHES):
        loss = estimator.loss(subject.draw(64, scale=scale))
        expect(
            not trained or loss.requires_grad,
            f"{subject.name}.loss has no graph, so nothing is learned: look for an argmax, a "
            "detach or no_grad on the way",
        )
        if not loss.requires_grad:
            break
        estimator.zero_grad()
        loss.backward()
        for name, parameter in trained.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            expect(
                bool(torch.isfinite(gradient).all()),
                f"{subject.name}.loss has gradients of {name!r} that are not finite for features "
                f"of size {scale:g}",
            )
            missed -= {name} if bool((gradient != 0).any()) else set()
        _expect_no_gradient(subject, estimator)
    return missed


def _expect_no_gradient(subject: Subject, estimator: RewardEstimator) -> None:
    prior = estimator.prior
    if not isinstance(prior, nn.Module):
        return
    moved = [
        name
        for name, parameter in prior.named_parameters()
        if parameter.grad is not None and bool((parameter.grad != 0).any())
    ]
    expect(not moved, f"{subject.name}.loss passes a gradient to the prior's {moved}")


def _check_noise(subject: Subject) -> None:
    """Turn an InputNoise up: the loss has to notice, and what is read must not."""
    estimator, data = subject.make(), subject.arrived(subject.draw(32))
    noises = [module for module in estimator.modules() if isinstance(module, InputNoise)]
    if not noises:
        return
    calls = {"log_ratio": estimator.log_ratio, "bound": estimator.bound}
    if not estimator.transitions:
        calls["sample_loss"] = estimator.sample_loss
    before = {name: _seeded(call, data) for name, call in calls.items()}
    for module in noises:
        module.std = 3.0
    for name, call in calls.items():
        same = torch.equal(_seeded(call, data), before[name])
        words = "ignores the noise" if name == "sample_loss" else "is read with the noise"
        expect(
            same != (name == "sample_loss"),
            f"{subject.name}.{name} {words} that InputNoise puts on the input in training",
        )


def _seeded(call: Callable[[TensorDictBase], Tensor], data: TensorDictBase) -> Tensor:
    torch.manual_seed(0)
    return call(data).detach()


def _check_reading_is_current(subject: Subject) -> None:
    """Move every parameter and see what is read of the moved ones, of their state and of a copy."""
    first, second, data = subject.make(), subject.make(), subject.draw(32)
    if not trained_parameters(first):
        return
    before = first.log_ratio(data).detach()
    _move(second)
    moved = second.log_ratio(data).detach()
    expect(
        not torch.allclose(moved, before),
        f"{subject.name}.log_ratio stays the same when every parameter changes: it reads a copy",
    )
    copied = copy.deepcopy(first)
    expect(
        torch.equal(copied.log_ratio(data), before),
        f"{subject.name}.log_ratio is another after a deepcopy",
    )
    copied.load_state_dict(second.state_dict())
    expect(
        torch.equal(copied.log_ratio(data), moved),
        f"{subject.name}.log_ratio does not survive state_dict and load_state_dict",
    )
    expect(
        torch.equal(first.log_ratio(data), before),
        f"{subject.name} shares its parameters with a deepcopy of it",
    )


@torch.no_grad()
def _move(estimator: RewardEstimator) -> None:
    for parameter in trained_parameters(estimator).values():
        parameter.add_(0.3 * torch.randn_like(parameter))
