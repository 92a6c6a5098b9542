"""Tasks whose mutual information is known: what estimators are judged on.

All in nats. A task draws pairs: ``latent``, codes ``[N]`` int64 or ``[N, D]`` float64, and
``state``, symbols ``[N]`` int64 or ``[N, E]`` float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

__all__ = [
    "Task",
    "channel",
    "find_task",
    "gao",
    "gaussian",
    "lognormal",
    "sphere",
    "student",
    "uniform",
]

Pairs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A joint distribution and what is known of it.

    Attributes:
        name: such as ``channel-8-0.2``.
        truth: I(Z; S), nats.
        sample: draws N pairs.
        num_codes: K, for discrete codes.
        posterior: p(z | s) of every code, ``[N, K]``, for discrete codes.
        states: points ``[M]`` or ``[M, 1]`` and their probabilities ``[M]``, over which a mean over
            states is exact (channels) or exact to a fine grid (mixtures).
        to_prior: an injective map of a continuous code to N(0, I), or the code itself on a sphere.
        dims: D and E; 0 where codes or symbols stand.
        edges: whether the density of the state given the code falls to 0 in a step.
    """

    name: str
    truth: float
    sample: Callable[[int, Generator], Pairs]
    num_codes: int | None = None
    posterior: Callable[[Tensor], Tensor] | None = None
    states: Pairs | None = None
    to_prior: Callable[[Tensor], Tensor] | None = None
    dims: tuple[int, int] = (0, 0)
    edges: bool = False

    @property
    def is_symbolic(self) -> bool:
        """Whether states are symbols, as a channel's."""
        return self.dims[1] == 0

    def draw(self, size: int, seed: int) -> Pairs:
        """Draw pairs from a seed."""
        return self.sample(size, torch.Generator().manual_seed(seed))


def channel(num_codes: int, error: float) -> Task:
    r"""K-ary symmetric channel: :math:`\log K - h(e) - e \log(K - 1)`.

    With probability e the symbol is one of the K - 1 others.
    """
    h = -error * math.log(error) - (1 - error) * math.log1p(-error)
    table = torch.full((num_codes, num_codes), error / (num_codes - 1), dtype=torch.float64)
    table.fill_diagonal_(1 - error)

    def sample(size: int, generator: Generator) -> Pairs:
        latent = torch.randint(num_codes, (size,), generator=generator)
        wrong = torch.rand(size, generator=generator, dtype=torch.float64) < error
        shift = torch.randint(1, num_codes, (size,), generator=generator)
        return latent, torch.where(wrong, (latent + shift) % num_codes, latent)

    return Task(
        f"channel-{num_codes}-{error:g}",
        math.log(num_codes) - h - error * math.log(num_codes - 1),
        sample,
        num_codes=num_codes,
        posterior=lambda state: table[state],
        states=(torch.arange(num_codes), torch.full((num_codes,), 1 / num_codes).double()),
    )


def gao(num_codes: int) -> Task:
    r"""Z uniform over m codes, S uniform over [Z, Z + 2): :math:`\log m - (m-1)/m \log 2`.

    Gao, Kannan, Oh and Viswanath, arXiv 1709.06212.
    """

    def sample(size: int, generator: Generator) -> Pairs:
        latent = torch.randint(num_codes, (size, 1), generator=generator)
        noise = torch.rand(size, 1, generator=generator, dtype=torch.float64)
        return latent.squeeze(-1), latent + 2 * noise

    def posterior(state: Tensor) -> Tensor:
        offset = state - torch.arange(num_codes)
        inside = ((offset >= 0) & (offset < 2)).double()
        return inside / inside.sum(-1, keepdim=True)

    cells = 500
    grid = (torch.arange(cells * (num_codes + 1), dtype=torch.float64) + 0.5) / cells
    density = torch.full_like(grid, 1 / num_codes)
    density[:cells] = density[-cells:] = 0.5 / num_codes
    return Task(
        f"gao-{num_codes}",
        math.log(num_codes) - (num_codes - 1) / num_codes * math.log(2),
        sample,
        num_codes=num_codes,
        posterior=posterior,
        states=(grid.unsqueeze(-1), density / cells),
        dims=(0, 1),
        edges=True,
    )


def gaussian(dim: int, rho: float) -> Task:
    r"""2d Gaussian variables that are all correlated by rho, d of them each code and state.

    :math:`\frac12 \log (1 + (d-1)\rho)^2 / ((1-\rho)(1 + (2d-1)\rho))`, of the determinants
    :math:`|C_n| = (1-\rho)^{n-1}(1 + (n-1)\rho)`; for d = 1 it is
    :math:`-\frac12 \log(1-\rho^2)`.
    """
    covariance = equicorrelated(2 * dim, rho)
    factor = torch.linalg.cholesky(covariance)
    # Along the eigenvectors, so that given the state the components are independent, too.
    values, vectors = torch.linalg.eigh(covariance[:dim, :dim])
    whiten = (vectors * values.rsqrt()).T

    def sample(size: int, generator: Generator) -> Pairs:
        noise = torch.randn(size, 2 * dim, generator=generator, dtype=torch.float64)
        return (noise @ factor.T).split(dim, -1)

    return Task(
        f"gaussian-{dim}x{dim}-{rho:g}",
        gaussian_information(dim, rho),
        sample,
        to_prior=lambda latent: latent @ whiten.T,
        dims=(dim, dim),
    )


def lognormal(rho: float) -> Task:
    """The exponentials of two Gaussians with correlation rho: their information, heavy tails."""
    base = gaussian(1, rho)

    def sample(size: int, generator: Generator) -> Pairs:
        latent, state = base.sample(size, generator)
        return latent.exp(), state.exp()

    return Task(f"lognormal-{rho:g}", base.truth, sample, to_prior=torch.log, dims=(1, 1))


def student(dim: int, rho: float, freedom: float) -> Task:
    r"""2d Student variables of one mixing variable; all correlated by rho in the dispersion.

    The Gaussian's information plus :math:`f(\nu) + f(\nu + 2d) - 2 f(\nu + d)` with
    :math:`f(x) = \log \Gamma(x/2) - \frac x2 \psi(\frac x2)` (Arellano-Valle, Contreras-Reyes and
    Genton, Scand. J. Statist. 40, 2013). Positive also for rho = 0.
    """
    base = gaussian(dim, rho)
    half = torch.tensor([freedom, freedom + 2 * dim, freedom + dim], dtype=torch.float64) / 2
    f = torch.lgamma(half) - half * torch.digamma(half)

    def sample(size: int, generator: Generator) -> Pairs:
        latent, state = base.sample(size, generator)
        # A chi-square variable of whole degrees of freedom is a sum of squares.
        normal = torch.randn(size, round(freedom), generator=generator, dtype=torch.float64)
        scale = normal.square().mean(-1, keepdim=True).rsqrt()
        return latent * scale, state * scale

    return Task(
        f"student-{dim}x{dim}-{rho:g}-{freedom:g}",
        base.truth + float(f[0] + f[1] - 2 * f[2]),
        sample,
        dims=(dim, dim),
    )


def uniform(eps: float) -> Task:
    r"""Z uniform over [0, 1), S = Z + N with N uniform over [-eps, eps].

    :math:`\epsilon - \log 2\epsilon` for eps up to 1/2, :math:`1 / 4\epsilon` above.
    """

    def sample(size: int, generator: Generator) -> Pairs:
        draws = torch.rand(2, size, 1, generator=generator, dtype=torch.float64)
        return draws[0], draws[0] + eps * (2 * draws[1] - 1)

    truth = eps - math.log(2 * eps) if eps <= 0.5 else 1 / (4 * eps)
    # Through the normal quantile function the code is N(0, 1).
    name, to_normal = f"uniform-{eps:g}", torch.special.ndtri
    return Task(name, truth, sample, to_prior=to_normal, dims=(1, 1), edges=True)


def sphere(kappa: float) -> Task:
    r"""Z uniform on the sphere in three dimensions, S of von Mises and Fisher around it.

    :math:`\log (\kappa / \sinh \kappa) + \kappa \coth \kappa - 1`, as S is uniform too.
    """

    def sample(size: int, generator: Generator) -> Pairs:
        latent = _normalised(torch.randn(size, 3, generator=generator, dtype=torch.float64))
        side = torch.randn(size, 3, generator=generator, dtype=torch.float64)
        side = _normalised(side - (side * latent).sum(-1, keepdim=True) * latent)
        u = torch.rand(size, 1, generator=generator, dtype=torch.float64)
        cosine = 1 + (u + (1 - u) * math.exp(-2 * kappa)).log() / kappa
        return latent, cosine * latent + (1 - cosine.square()).clamp_min(0).sqrt() * side

    log_sinh = kappa + math.log1p(-math.exp(-2 * kappa)) - math.log(2)
    truth = math.log(kappa) - log_sinh + kappa / math.tanh(kappa) - 1
    return Task(f"sphere-{kappa:g}", truth, sample, to_prior=lambda latent: latent, dims=(3, 3))


def equicorrelated(size: int, rho: float) -> Tensor:
    """Return the covariance with ones on the diagonal and rho elsewhere, float64."""
    identity = torch.eye(size, dtype=torch.float64)
    return rho + (1 - rho) * identity


def gaussian_information(dim: int, rho: float) -> float:
    """Return the information of :func:`gaussian`, nats."""
    own, joint = 1 + (dim - 1) * rho, (1 - rho) * (1 + (2 * dim - 1) * rho)
    return 0.5 * math.log(own * own / joint)


def find_task(name: str) -> Task:
    """Make a task of its name, such as ``student-2x2-0.5-3``."""
    kind, *numbers = name.replace("x", "-").split("-")
    values = [float(number) for number in numbers]
    if kind == "channel":
        return channel(int(values[0]), values[1])
    if kind == "gao":
        return gao(int(values[0]))
    if kind == "gaussian":
        return gaussian(int(values[0]), values[2])
    if kind == "student":
        return student(int(values[0]), *values[2:])
    return {"lognormal": lognormal, "uniform": uniform, "sphere": sphere}[kind](*values)


def _normalised(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)
