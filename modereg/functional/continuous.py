r"""Density ratios of continuous codes: a Gaussian against N(0, I), a von Mises-Fisher on a sphere.

Both are the integrand of Barber and Agakov's bound (2003). A von Mises-Fisher density is
:math:`C_d(\kappa) e^{\kappa \mu \cdot z}` on the unit sphere of :math:`R^d` (Mardia and Jupp, 2000,
Eq. 9.3.4); VISR has one of fixed kappa for the codes of behaviours (Hansen et al., arXiv
1906.05030, Sec. 4). DLMF is the NIST Digital Library of Mathematical Functions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = [
    "gaussian_log_ratio",
    "soft_range",
    "sphere_log_area",
    "von_mises_fisher_natural_log_ratio",
    "von_mises_fisher_peak",
]

_LARGE, _TERMS = 16, 8
"""The order of Bessel functions from which their expansion is taken, and its number of terms."""


def gaussian_log_ratio(loc: Tensor, log_std: Tensor, latent: Tensor) -> Tensor:
    r""":math:`\log N(z; \mu, \sigma^2) - \log N(z; 0, I)`; 0 exactly where the two are equal.

    Args:
        loc: mu, ``[*B, D]``.
        log_std: log sigma, ``[*B, D]``.
        latent: codes z, ``[*B, D]``.

    Returns:
        ``[*B]`` nats, without a largest value.
    """
    standard = (latent - loc) * torch.exp(-log_std)
    return (0.5 * (latent.square() - standard.square()) - log_std).sum(-1)


def soft_range(raw: Tensor, low: float, high: float) -> Tensor:
    """Map the reals into (low, high) around 0, where it is the identity with its first derivative.

    It is ``high tanh(raw / high)`` above 0 and ``low tanh(raw / low)`` below, which has two
    continuous derivatives.

    Args:
        raw: of any shape.
        low: negative.
        high: positive.
    """
    return torch.where(raw < 0, low * torch.tanh(raw / low), high * torch.tanh(raw / high))


def sphere_log_area(dim: int) -> float:
    r""":math:`\log 2 \pi^{d/2} / \Gamma(d/2)`: the area of the unit sphere of R^d, d of 2 or more.

    It is also the entropy of the uniform distribution there, nats; negative from d = 19 on.
    """
    return math.log(2.0) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def von_mises_fisher_peak(kappa: Tensor, dim: int) -> Tensor:
    r"""Return the log ratio to the uniform density at its peak, where z is mu.

    :math:`\log C_d(\kappa) + \kappa + \log A_d` with the sphere's area A; it grows with kappa like
    :math:`(d - 1)/2 \log \kappa`.

    Args:
        kappa: concentration, ``[*B]``, not negative.
        dim: d, at least 2.

    Returns:
        ``[*B]`` nats, computed in float64, of kappa's dtype.
    """
    wide = kappa.to(torch.float64)
    return (wide - _log_mgf(wide.square(), dim)).to(kappa.dtype)


def von_mises_fisher_natural_log_ratio(natural: Tensor, latent: Tensor) -> Tensor:
    r"""Return the log ratio to the uniform density of a natural parameter, 0 exactly at 0.

    :math:`\log vMF(z; \mu, \kappa) - \log U(z) = \eta \cdot z - F_d(|\eta|)` is at most
    :func:`von_mises_fisher_peak` of kappa.

    :math:`\eta = \kappa \mu`, and :math:`F_d` is the log of the uniform density's moment
    generating function. It is smooth at 0, where the direction mu is not defined.

    Args:
        natural: eta, ``[*B, D]`` with D of at least 2: kappa is its length, mu its direction.
        latent: unit vectors z, ``[*B, D]``; their length is put right in float64.

    Returns:
        ``[*B]`` nats, computed in float64, of eta's dtype.
    """
    wide = natural.to(torch.float64)
    latent = functional.normalize(latent.to(torch.float64), dim=-1)
    log_mgf = _log_mgf(wide.square().sum(-1), natural.shape[-1])
    return ((wide * latent).sum(-1) - log_mgf).to(natural.dtype)


def _log_mgf(square: Tensor, dim: int) -> Tensor:
    r"""Return :math:`F_d = \log E e^{\kappa \mu \cdot z} = \log {}_0F_1(; d/2; \kappa^2/4)`.

    Args:
        square: kappa squared, ``[*B]`` float64.
        dim: d.
    """
    value: Tensor = _LogMgf.apply(square, dim)[0]
    return value


class _LogMgf(torch.autograd.Function):
    r""":math:`F_d` of kappa squared, whose derivative is :math:`g_d / 2d`.

    With :math:`g_d = d\, I_{d/2}(\kappa) / (\kappa I_{d/2-1}(\kappa))`, 1 at 0, the recurrence of
    Bessel functions (DLMF 10.29.1) is :math:`1 / g_d = 1 + \kappa^2 g_{d+2} / (d (d + 2))`, and
    :math:`F_d = F_{d+2} - \log g_d`. Every term is positive, so nothing is lost on the way down
    from a dimension that is large enough for an expansion.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(square: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Return F and its derivative, ``[*B]`` each."""
        top = dim + 2 * max(0, math.ceil(_LARGE - dim / 2))
        value, above = _debye(square, top / 2 - 1), _debye(square, top / 2)
        slope, excess = torch.exp(above - value), [torch.zeros_like(square)]
        for d in range(top - 2, dim - 1, -2):
            excess.append(square * slope / (d * (d + 2)))
            slope = (1.0 + excess[-1]).reciprocal()
        return value + torch.stack(excess).log1p().sum(0), slope / (2 * dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        """Keep the derivative, of which there is no further one."""
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of kappa squared."""
        return grads[0] * ctx.saved_tensors[0], None


def _debye(square: Tensor, order: float) -> Tensor:
    r"""Return :math:`F` of d = 2 order + 2 by the expansion for large orders (DLMF 10.41.3)."""
    x_square = square / order**2
    root = torch.sqrt(1.0 + x_square)
    rise = x_square / (root + 1.0)  # root - 1
    t, series, at_zero = root.reciprocal(), torch.zeros_like(root), 0.0
    for coefficient in reversed(_debye_coefficients(order)):
        series, at_zero = (series + coefficient) * t, at_zero + coefficient
    main = order * (rise - torch.log1p(rise / 2)) - 0.25 * torch.log1p(x_square)
    return main + torch.log1p((series - at_zero) / (1.0 + at_zero))


def _debye_coefficients(order: float) -> list[float]:
    r"""Return the coefficients of t, t^2, ... in the sum over k of :math:`u_k(t) / order^k`."""
    total = [0.0] * (3 * _TERMS)
    for k, polynomial in enumerate(_POLYNOMIALS, 1):
        for n, coefficient in polynomial.items():
            total[n - 1] += coefficient / order**k
    return total


def _debye_polynomials() -> list[dict[int, float]]:
    r"""Return the coefficients of u_1, u_2, ..., by the power of t.

    From :math:`u_0 = 1` and :math:`u_{k+1} = \frac12 t^2 (1 - t^2) u_k' + \frac18 \int_0^t
    (1 - 5 s^2) u_k ds` (DLMF 10.41.9).
    """
    polynomials = [{0: 1.0}]
    for _ in range(_TERMS):
        following: dict[int, float] = {}
        for n, a in polynomials[-1].items():
            rise, fall = n / 2 + 1 / (8 * (n + 1)), n / 2 + 5 / (8 * (n + 3))
            following[n + 1] = following.get(n + 1, 0.0) + a * rise
            following[n + 3] = following.get(n + 3, 0.0) - a * fall
        polynomials.append(following)
    return polynomials[1:]


_POLYNOMIALS = _debye_polynomials()
