r"""Codes in a denoiser: each shifts the biases of its layers, :math:`W x + b + \sum_k z_k s_k`.

The shifts, zero at first, are all that a code's embedding is: of the scales and shifts of FiLM
(arXiv 1709.07871) the shifts, each a change of biases as BitFit trains them (arXiv 2106.10199). So
a denoiser that is told one code is the same network with other biases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modereg.errors import ConfigurationError
from modereg.storage import uncompiled

__all__ = ["SHIFT", "CodeShifts", "add_shifts", "shiftable", "shifted_layers"]

SHIFT = "code_shift"
"""Name of the parameter ``[D, C]`` of a layer of C biases that holds its shifts."""

_CONVOLUTIONS = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)


class CodeShifts:
    """Gives layers of a module shifts of their own, and tells them the codes of each pass.

    They become parameters of these layers, ``NAME.code_shift``, zeros, which are trained, copied
    and saved as the others are.

    Args:
        module: changed in place.
        features: D, how many numbers the code's features are.
        layers: names of those that are shifted, as :func:`shiftable` gives them.

    Raises:
        ConfigurationError: if there is no such layer.
    """

    def __init__(self, module: nn.Module, features: int, layers: Iterable[str]) -> None:
        self._told: Tensor | None = None
        self._tables: list[nn.Parameter] = []
        there = dict(_layers(module))
        for name in layers:
            if name not in there:
                raise ConfigurationError(
                    f"expected layers of {type(module).__name__} with biases, which codes can "
                    f"shift, got {name!r}; it has {sorted(there)}"
                )
            layer = there[name]
            table = nn.Parameter(_bias(layer).new_zeros(features, _bias(layer).numel()))
            layer.register_parameter(SHIFT, table)
            self._tables.append(table)
            layer.register_forward_hook(self._shifted)

    @contextmanager
    def told(self, features: Tensor) -> Iterator[None]:
        """Let passes within shift by the codes of their rows, ``[n, D]``.

        A layer may see each row several times, the same number each, one after the other.
        """
        self._told = features
        try:
            yield
        finally:
            self._told = None

    @torch.no_grad()
    def check(self, decode: Callable[[Tensor], Tensor], features: int) -> None:
        """Check that rows of a batch get the shifts of their own codes, while all are zeros.

        Args:
            decode: from features ``[n, D]`` to chunks ``[n, H, A]`` that are alike in all else; at
                most five rows.
            features: D.

        Raises:
            ConfigurationError: if they get others', or none.
        """
        for table in self._tables:
            table.normal_(std=0.1)
        device = self._tables[0].device
        one, two = torch.eye(max(features, 2), device=device)[:2, :features]
        mixed = decode(torch.stack([one, two, two, one, two]))
        alone = [decode(each.expand(5, -1).clone()) for each in (one, two)]
        for table in self._tables:
            table.zero_()
        picked = torch.tensor([0, 1, 1, 0, 1], device=mixed.device)
        expected = torch.stack(alone)[picked, torch.arange(5, device=mixed.device)]
        apart, error = (alone[0] - alone[1]).abs().max(), (mixed - expected).abs().max()
        if not bool(error < 0.05 * apart):
            raise ConfigurationError(
                "expected a denoiser that keeps the rows of a batch apart, so that each is shifted "
                f"by its own code, got chunks that are {float(error):.2g} from those of the codes "
                f"one by one, which are {float(apart):.2g} apart; leave the embedding of codes out"
            )

    def _shifted(self, layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._told is None:
            raise ConfigurationError(
                "expected the codes beside the observations, got a pass of the denoiser alone; "
                "call the chain (decode, sample, means), or the policy of one code (fixed)"
            )
        table = layer.get_parameter(SHIFT)
        shift = self._told.to(table) @ table
        times = len(output) // len(shift)
        shift = shift if times == 1 else shift.repeat_interleave(times, 0)
        inner = [1] * (output.ndim - 2)
        last = not isinstance(layer, _CONVOLUTIONS)
        size = (len(shift), *inner, -1) if last else (len(shift), -1, *inner)
        return output + shift.reshape(size).to(output.dtype)


def shiftable(module: nn.Module, run: Callable[[int], object]) -> list[str]:
    """Return the names of layers whose biases codes can shift, row by row.

    Linear layers and convolutions with a bias that no other layer shares, which are called with the
    rows of the batch first; or so many times as many, the same number for each batch. Others, such
    as one that is called once for all rows, or whose weights are read past its ``forward``, are
    left out.

    Args:
        module: which stays as it is.
        run: makes a pass of it with so many rows.

    Raises:
        ConfigurationError: if there is none.
    """
    names = {layer: name for name, layer in _layers(module)}
    seen: dict[nn.Module, set[float]] = {}
    rows = [0]

    def look(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        ratio = len(output) / rows[0] if output.ndim > 1 else 0.5
        seen.setdefault(layer, set()).add(ratio)

    hooks = [layer.register_forward_hook(look) for layer in names]
    try:
        for rows[0] in (3, 5):
            run(rows[0])
    finally:
        for hook in hooks:
            hook.remove()
    found = [
        names[layer]
        for layer, ratios in seen.items()
        if len(ratios) == 1 and all(ratio.is_integer() and ratio > 0 for ratio in ratios)
    ]
    if not found:
        raise ConfigurationError(
            "expected a denoiser with linear layers or convolutions that have biases and are "
            f"called with the rows of a batch, which codes could shift, got {type(module).__name__}"
            " without any; leave the embedding of codes out, or compile the policy afterwards if "
            "it is compiled"
        )
    return sorted(found)


def shifted_layers(names: Iterable[str]) -> list[str]:
    """Return the layers whose shifts are among names of parameters."""
    end = f".{SHIFT}"
    return sorted(name.removesuffix(end) for name in names if name.endswith(end))


@torch.no_grad()
def add_shifts(told: nn.Module, features: Tensor, into: nn.Module) -> None:
    """Add the shifts of one code, ``[D]``, to the biases of a module that has no shifts itself."""
    there = dict(_layers(into))
    for name, layer in _layers(told):
        if hasattr(layer, SHIFT):
            table = layer.get_parameter(SHIFT)
            _bias(there[name]).add_(features.to(table) @ table)


def _bias(layer: nn.Module) -> Tensor:
    return layer.get_parameter("bias").detach()


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield layers with a bias of their own, with names that are the same compiled or not."""
    parts = [part for part in module.modules() if isinstance(part, nn.Linear | _CONVOLUTIONS)]
    uses = Counter(id(part.bias) for part in parts)
    for name, part in module.named_modules():
        if not isinstance(part, nn.Linear | _CONVOLUTIONS) or part.bias is None:
            continue
        if uses[id(part.bias)] == 1 and part.bias.is_floating_point():
            yield uncompiled(f"{name}.").removesuffix("."), part
