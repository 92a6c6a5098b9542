"""Samples of two variables: checked, split, made features of, and dealt out in batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from modereg.errors import ConfigurationError, NonFiniteError, ShapeError

__all__ = ["batches", "check_samples", "features", "split"]


def split(size: int, held_out: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows that are held out, that validate (a tenth of the others) and that train."""
    order = torch.randperm(size, generator=generator)
    tests = round(held_out * size)
    valids = min(2000, (size - tests) // 10)
    if min(tests, valids) < 2:
        raise ConfigurationError(
            f"expected samples enough to hold out, validate and train on, got {size} with "
            f"held_out={held_out}; give 50 or more, and a held_out between 0.1 and 0.5"
        )
    return order[:tests], order[tests : tests + valids], order[tests + valids :]


def features(values: Tensor, train: Tensor) -> Tensor:
    """Return one-hot codes, or standardised values, ``[N, D]`` float32."""
    if not values.is_floating_point():
        return F.one_hot(values.long()).float()
    values = values.detach().double().reshape(len(values), -1)
    std, mean = torch.std_mean(values[train.to(values.device)], 0)
    varies = std > 1e-9 * mean.abs()
    return ((values - mean) / torch.where(varies, std, torch.ones_like(std))).float()


def batches(size: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches without a sample twice, epoch by epoch."""
    batch_size = min(batch_size, size)
    while steps > 0:
        whole = size - size % batch_size
        epoch = torch.randperm(size, generator=generator)[:whole].split(batch_size)[:steps]
        yield from epoch
        steps -= len(epoch)


def check_samples(x: Tensor, y: Tensor) -> None:
    """Refuse samples of other shapes, codes below 0, and what is not finite."""
    for name, value in (("x", x), ("y", y)):
        codes = not value.is_floating_point()
        if not value.ndim or len(value) != len(x) or (codes and value.ndim != 1):
            raise ShapeError(
                f"expected x and y of shape [N, ...], or [N] where they are codes, got {name} of "
                f"{value.dtype} and shape {list(value.shape)} beside x of {list(x.shape)}"
            )
        if codes and len(value) and int(value.min()) < 0:
            raise ConfigurationError(
                f"expected codes in [0, K), got {int(value.min())} in {name}; drop those samples"
            )
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(f"expected finite {name}, got NaN or infinities; drop those rows")
