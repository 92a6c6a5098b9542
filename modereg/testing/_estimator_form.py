"""What an estimator returns, row by row, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.estimators import RewardEstimator
from modereg.priors import CategoricalPrior
from modereg.reading import in_next
from modereg.testing._estimator_subject import Subject
from modereg.testing._expect import expect

__all__ = ["check_errors", "check_form"]

_SIZES = ((7,), (2, 3), (1,), (), (0,), (0, 3))


def check_form(subject: Subject) -> None:
    """Check everything that needs no learning and no gradient."""
    for size in _SIZES:
        _check_shapes(subject, size)
    for check in (
        _check_untouched,
        _check_determinism,
        _check_scalars,
        _check_rows,
        _check_precision,
    ):
        check(subject)


def _check_shapes(subject: Subject, size: tuple[int, ...]) -> None:
    estimator, data = subject.make(), subject.draw(*size)
    reading = {"log_ratio": estimator.log_ratio(data)}
    if data.numel():
        reading["sample_loss"] = estimator.sample_loss(data)
    for name, value in reading.items():
        expect(
            tuple(value.shape) == size,
            f"{subject.name}.{name} returned the shape {tuple(value.shape)} for a batch of {size}",
        )
        _expect_like(subject, name, value, torch.get_default_dtype())
    if isinstance(subject.prior, CategoricalPrior):
        log_prob, wanted = estimator.log_prob(data), (*size, subject.prior.num_codes)
        expect(
            tuple(log_prob.shape) == wanted,
            f"{subject.name}.log_prob returned the shape {tuple(log_prob.shape)} for a batch of "
            f"{size}, where {wanted} was expected",
        )


def _expect_like(subject: Subject, name: str, value: Tensor, dtype: torch.dtype) -> None:
    expect(
        value.dtype == dtype,
        f"{subject.name}.{name} returned {value.dtype} for parameters and features of {dtype}",
    )
    expect(
        value.device.type == subject.device.type,
        f"{subject.name}.{name} returned a value on {value.device} for data on {subject.device}",
    )
    expect(
        bool(torch.isfinite(value).all()),
        f"{subject.name}.{name} is not finite for ordinary features",
    )


def _check_scalars(subject: Subject) -> None:
    estimator, data, name = subject.make(), subject.draw(64), subject.name
    loss, rows = (_seeded(call, data) for call in (estimator.loss, estimator.sample_loss))
    expect(
        loss.shape == () and torch.allclose(loss, rows.mean(), rtol=1e-4, atol=1e-5),
        f"{name}.loss is {loss.tolist()} where the mean of sample_loss is {float(rows.mean()):.4g}",
    )
    seen = subject.arrived(data)
    bound = _seeded(estimator.bound, seen)
    expect(bound.shape == (), f"{name}.bound returned the shape {tuple(bound.shape)}, not a scalar")
    _expect_like(subject, "bound", bound, torch.get_default_dtype())
    _check_mean(subject, estimator, seen, bound)
    torch.manual_seed(0)
    _check_figures(name, estimator.figures(seen), bound)
    expect(
        0.0 <= estimator.scale < float("inf"),
        f"{name}.scale is {estimator.scale}, where a finite, non-negative number was expected",
    )


def _seeded(call: Callable[[TensorDictBase], Tensor], data: TensorDictBase) -> Tensor:
    torch.manual_seed(0)
    return call(data).detach()


def _check_mean(
    subject: Subject, estimator: RewardEstimator, data: TensorDictBase, bound: Tensor
) -> None:
    """Check a lower bound against the mean ratio, of which it may draw other samples."""
    ratio = estimator.log_ratio(data).detach()
    error = 3.0 * float(ratio.std()) / len(data) ** 0.5 + 1e-3 * (1.0 + abs(float(bound)))
    expect(
        not estimator.is_lower_bound or abs(float(bound - ratio.mean())) <= error,
        f"{subject.name}.bound is {float(bound):.4g} where the mean of log_ratio is "
        f"{float(ratio.mean()):.4g}",
    )


def _check_figures(name: str, figures: dict[str, float], bound: Tensor) -> None:
    odd = [key for key, value in figures.items() if type(value) not in (int, float)]
    expect(not odd, f"{name}.figures holds values under {odd} that are no Python numbers")
    expect("bound" in figures, f"{name}.figures lacks 'bound', it has {sorted(figures)}")
    expect(
        abs(figures["bound"] - float(bound)) <= 1e-4 * (1.0 + abs(float(bound))),
        f"{name}.figures has a bound of {figures['bound']:.4g}, where bound returns "
        f"{float(bound):.4g}",
    )


def _reading(estimator: RewardEstimator) -> dict[str, Callable[[TensorDictBase], Any]]:
    """Return what reads an estimator without training it."""
    reading: dict[str, Callable[[TensorDictBase], Any]] = {
        "log_ratio": estimator.log_ratio,
        "bound": estimator.bound,
        "figures": estimator.figures,
    }
    if isinstance(estimator.prior, CategoricalPrior):
        reading["log_prob"] = estimator.log_prob
    return reading


def _check_untouched(subject: Subject) -> None:
    estimator, data = subject.make(), subject.draw(8)
    calls = _reading(estimator) | {"sample_loss": estimator.sample_loss, "loss": estimator.loss}
    for name, call in calls.items():
        given = data.clone()
        call(given)
        names, before = set(given.keys(True, True)), set(data.keys(True, True))
        expect(
            names == before,
            f"{subject.name}.{name} changed which entries the tensordict has: "
            f"{sorted(names ^ before, key=str)}",
        )
        changed = [key for key in before if not torch.equal(given.get(key), data.get(key))]
        expect(not changed, f"{subject.name}.{name} changed the values under {changed}")


def _check_determinism(subject: Subject) -> None:
    estimator, data = subject.make(), subject.draw(32)
    state = torch.random.get_rng_state()
    before = estimator.log_ratio(data)
    expect(
        torch.equal(state, torch.random.get_rng_state()),
        f"{subject.name}.log_ratio draws random numbers: it is read with the noise of training, or "
        "with samples of its own",
    )
    calls: dict[str, Callable[[], Any]] = {
        "is not deterministic": lambda: None,
        "is another after loss was called, without any optimiser step": lambda: estimator.loss(
            data
        ),
        "hangs on the module's training mode": estimator.eval,
    }
    for words, call in calls.items():
        call()
        expect(torch.equal(estimator.log_ratio(data), before), f"{subject.name}.log_ratio {words}")


def _check_rows(subject: Subject) -> None:
    estimator, data = subject.make(), subject.draw(12)
    whole = estimator.log_ratio(data)
    order = torch.randperm(12, device=data.device)
    parts = {
        "in another order": (estimator.log_ratio(data[order]), whole[order]),
        "alone": (estimator.log_ratio(data[:1]), whole[:1]),
        "in a batch of another shape": (estimator.log_ratio(data.reshape(3, 4)).flatten(), whole),
    }
    for words, (part, wanted) in parts.items():
        expect(
            part.shape == wanted.shape and torch.allclose(part, wanted, rtol=1e-4, atol=1e-5),
            f"{subject.name}.log_ratio of a row depends on the other rows: read {words} it has "
            f"another value by up to {_difference(part, wanted):.3g}; look for a mean, a softmax "
            "or BatchNorm over the batch",
        )


def _difference(part: Tensor, wanted: Tensor) -> float:
    return (
        float((part - wanted).detach().abs().max()) if part.shape == wanted.shape else float("inf")
    )


def _check_precision(subject: Subject) -> None:
    single, double = subject.make(), subject.make().double()
    data = subject.draw(32)
    floats = data.select(*data.exclude(subject.latent_key).keys(True, True))
    wide = floats.to(torch.float64).set(subject.latent_key, data.get(subject.latent_key))
    for name in ("log_ratio", "sample_loss", "bound"):
        torch.manual_seed(0)
        value = getattr(double, name)(wide)
        _expect_like(subject, name, value, torch.float64)
    ratio, exact = single.log_ratio(data).detach().double(), double.log_ratio(wide).detach()
    expect(
        torch.allclose(ratio, exact, rtol=1e-3, atol=1e-3),
        f"{subject.name}.log_ratio in float32 and in float64 differ by "
        f"{float((ratio - exact).abs().max()):.3g}",
    )


def check_errors(subject: Subject) -> None:
    """Check which errors are raised: a convention, so it comes after what an estimator means."""
    estimator, data = subject.make(), subject.draw(8)
    entries: list[NestedKey] = [*subject.shapes, subject.latent_key]
    for key in entries:
        for name in ("log_ratio", "loss"):
            _expect_key_error(subject, getattr(estimator, name), name, data.exclude(key), key)
    for key in map(in_next, subject.shapes) if subject.transitions else ():
        _expect_key_error(subject, estimator.loss, "loss", data.exclude(key), key)
    if not isinstance(subject.prior, CategoricalPrior):
        return
    outside = [-1, subject.prior.num_codes, *(subject.prior.probs == 0).nonzero().flatten()]
    for code in map(int, outside):
        wrong = data.clone().set(
            subject.latent_key, torch.full_like(data[subject.latent_key], code)
        )
        try:
            estimator.loss(wrong)
        except ConfigurationError:
            continue
        except Exception as error:
            raise AssertionError(
                f"{subject.name}.loss raised {type(error).__name__} for the code {code}, which is "
                "outside the prior's support; raise ConfigurationError, as check_support does"
            ) from error
        raise AssertionError(
            f"{subject.name}.loss accepts the code {code}, which is outside the prior's support"
        )


def _expect_key_error(
    subject: Subject,
    call: Callable[[TensorDictBase], Any],
    name: str,
    data: TensorDictBase,
    key: NestedKey,
) -> None:
    try:
        call(data)
    except KeyMismatchError:
        return
    except Exception as error:
        raise AssertionError(
            f"{subject.name}.{name} raised {type(error).__name__} where {key!r} is missing; raise "
            "KeyMismatchError, as modereg.reading.require does"
        ) from error
    raise AssertionError(f"{subject.name}.{name} does not miss the entry {key!r}")
