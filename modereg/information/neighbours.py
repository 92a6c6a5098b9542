r"""Nearest-neighbour estimates of information and entropy from samples; all in nats.

Estimates are means of their terms and are not clamped: where there is nothing to know they scatter
around 0 and are negative as often as positive (scikit-learn's functions replace those by 0).
A monotone map of each column changes no information and is free to choose (``margins``): heavy
tails, whose far samples swamp the scale, ask for ``"normal"``. Distances are maximum norms, except
those of :func:`particle_entropy`. The information at hand must be small beside log N and the
dimension low: with many dimensions or strong dependence these estimates fall short (Gao, Ver Steeg
and Galstyan, arXiv 1411.2003).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor

from modereg import functional
from modereg.errors import ConfigurationError, NonFiniteError, ShapeError
from modereg.information._nearest import (
    Array,
    count,
    distances_within,
    extent,
    kth_distances,
)

__all__ = [
    "Margins",
    "kozachenko_leonenko_entropy",
    "ksg_information",
    "particle_entropy",
    "ross_information",
]

Margins = Literal["standard", "rank", "normal"]
"""What is done to each column: to mean 0 and deviation 1; to its ranks; to normal scores of them.
"""


def ksg_information(
    x: Tensor,
    y: Tensor,
    *,
    k: int = 3,
    algorithm: Literal[1, 2] = 1,
    margins: Margins = "standard",
    jitter: float = 1e-10,
    seed: int = 0,
) -> float:
    r"""Estimate I(X; Y) of two continuous variables.

    Kraskov, Stoegbauer and Grassberger, arXiv cond-mat/0305641, Eq. 8 (algorithm 1) and Eq. 9
    (algorithm 2). Every column is first brought to mean 0 and standard deviation 1, as the authors
    advise, so that no unit matters, or is given another margin, which they advise for skewed ones
    (Sec. II E).

    Args:
        x: samples, ``[N, D]`` or ``[N]``.
        y: samples, ``[N, E]`` or ``[N]``; row i of both belong together.
        k: number of neighbours: fewer have less bias, more have less variance.
        algorithm: 1 (cubes around each sample) or 2 (rectangles: less bias, more variance).
        margins: ``"normal"`` gives each column the ranks' normal scores, ``"rank"`` the ranks
            themselves, for heavy tails and for columns of very different shapes. Equal samples
            keep equal ranks.
        jitter: standard deviation of Gaussian noise on the standardised columns, which separates
            equal samples; 0 for none.
        seed: of the jitter; the global generators are left alone.

    Returns:
        The estimate in nats, not clamped.

    Raises:
        ShapeError: if the samples are not of these shapes.
        NonFiniteError: if a sample is not finite.
        ConfigurationError: if there are at most k samples, or equal samples and no jitter.
    """
    first, second = _samples(x, "x"), _samples(y, "y")
    _check_pairs(first, second)
    _check_neighbours(k, len(first) - 1)
    if algorithm not in (1, 2):
        raise ConfigurationError(f"expected algorithm 1 or 2, got {algorithm}")
    rng = np.random.default_rng(seed)
    first, second = (_scaled(values, margins, jitter, rng) for values in (first, second))
    joint = np.hstack([first, second])
    distances, neighbours = cKDTree(joint).query(joint, k=k + 1, p=np.inf)
    _check_distinct(distances[:, -1])
    if algorithm == 1:
        num_x, num_y = (_others(v, distances[:, -1], closed=False) for v in (first, second))
        return float(functional.ksg_terms(num_x, num_y, k).mean())
    num_x, num_y = (_others(v, extent(v, neighbours), closed=True) for v in (first, second))
    return float(functional.ksg_rectangle_terms(num_x, num_y, k).mean())


def ross_information(
    latent: Tensor,
    x: Tensor,
    *,
    k: int = 3,
    margins: Margins = "standard",
    jitter: float = 1e-10,
    seed: int = 0,
) -> float:
    r"""Estimate I(Z; X) of a discrete code and a continuous variable.

    Ross, PLOS ONE 9(2) e87357, 2014, Eq. 2. Samples of a code that was seen once are dropped, as
    Ross does; a code with at most k samples uses all of them as neighbours. Every column is first
    brought to mean 0 and standard deviation 1. With jitter, x may also be discrete.

    Args:
        latent: codes, ``[N]`` integers.
        x: samples, ``[N, D]`` or ``[N]``.
        k: number of neighbours of the same code.
        margins: as in :func:`ksg_information`, and so are jitter and seed.
        jitter: see there.
        seed: see there.

    Returns:
        The estimate in nats, not clamped.

    Raises:
        ShapeError: if the samples are not of these shapes.
        NonFiniteError: if a sample is not finite.
        ConfigurationError: if codes are no integers, or none was seen twice, or k is not positive,
            or there are equal samples and no jitter.
    """
    codes, values = _codes(latent), _samples(x, "x")
    _check_pairs(codes, values)
    _, labels, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    kept = sizes[labels] > 1
    if k < 1 or not kept.any():
        raise ConfigurationError(
            f"expected a positive k and codes of which at least one was seen twice, got k = {k} "
            f"and {len(sizes)} codes in {len(codes)} samples; give more samples"
        )
    values = _scaled(values, margins, jitter, np.random.default_rng(seed))[kept]
    num_same = sizes[labels[kept]]
    num_neighbours = np.minimum(k, num_same - 1)
    distances = distances_within(values, labels[kept], k)
    _check_distinct(distances)
    counts = (num_same, count(values, distances, closed=False), num_neighbours)
    return float(functional.ross_terms(*map(torch.from_numpy, counts)).mean())


def kozachenko_leonenko_entropy(x: Tensor, *, k: int = 3) -> float:
    r"""Estimate the differential entropy of a continuous variable.

    Kozachenko and Leonenko (1987) in the form of Kraskov et al., arXiv cond-mat/0305641, Eq. 20.

    Args:
        x: samples, ``[N, D]`` or ``[N]``.
        k: number of neighbours.

    Returns:
        The estimate in nats; differential entropy may be negative.

    Raises:
        ShapeError: if the samples are not of these shapes.
        NonFiniteError: if a sample is not finite.
        ConfigurationError: if there are at most k samples, or more than k equal ones.
    """
    values = _samples(x, "x")
    _check_neighbours(k, len(values) - 1)
    distances = kth_distances(values, k)
    _check_distinct(distances)
    terms = functional.kozachenko_leonenko_terms(torch.from_numpy(distances), k, values.shape[1])
    return float(terms.mean())


@torch.no_grad()
def particle_entropy(features: Tensor, *, k: int = 12, chunk_size: int = 1024) -> Tensor:
    r"""Reward each particle with :math:`\log(1 + \frac{1}{k} \sum_j \|x_i - x_j\|)`.

    The reward of APT (Liu and Abbeel, arXiv 2103.04551, with c = 1): the mean Euclidean distance to
    the k nearest others (duplicates of a particle count). No gradient flows. Memory grows with
    ``chunk_size`` times N.

    Args:
        features: the particles, ``[N, D]`` floating point, on any device.
        k: number of neighbours.
        chunk_size: particles at a time.

    Returns:
        ``[N]``, not negative, of the features' dtype.

    Raises:
        ShapeError: if a shape is another one.
        ConfigurationError: if there are fewer than k neighbours, or k or the chunk is not positive.
        NonFiniteError: if a feature is not finite.
    """
    _check_particles(features)
    _check_neighbours(k, len(features) - 1)
    if chunk_size < 1:
        raise ConfigurationError(f"expected a positive chunk_size, got {chunk_size}")
    rewards = features.new_empty(len(features))
    for start in range(0, len(features), chunk_size):
        chunk = features[start : start + chunk_size]
        # From the differences themselves, so that duplicates are at 0 exactly.
        distances = torch.cdist(chunk, features, compute_mode="donot_use_mm_for_euclid_dist")
        distances.diagonal(start).fill_(torch.inf)
        nearest = distances.topk(k, largest=False, sorted=False).values
        rewards[start : start + chunk_size] = functional.particle_reward(nearest)
    return rewards


def _others(values: Array, radius: Array, *, closed: bool) -> Tensor:
    """Count the other samples within a radius of each sample, ``[N]``."""
    return torch.from_numpy(count(values, radius, closed=closed) - 1)


def _scaled(values: Array, margins: Margins, jitter: float, rng: np.random.Generator) -> Array:
    """Bring columns to mean 0 and deviation 1 (constant ones stay), then separate equal samples."""
    if margins not in get_args(Margins):
        raise ConfigurationError(f"expected margins of {get_args(Margins)}, got {margins!r}")
    if not 0 <= jitter < 1:
        raise ConfigurationError(f"expected a jitter in [0, 1), got {jitter}; 1e-10 is plenty")
    if margins != "standard":
        values = (rankdata(values, axis=0) - 0.5) / len(values)
    if margins == "normal":
        values = ndtri(values)
    mean, deviation = values.mean(0), values.std(0)
    varies = deviation > 1e-12 * np.abs(mean)
    values = (values - mean) / np.where(varies, deviation, 1.0)
    return values + jitter * rng.standard_normal(values.shape) if jitter else values


def _samples(value: Tensor, name: str) -> Array:
    """Return samples as ``[N, D]`` float64."""
    if value.ndim not in (1, 2) or not value.numel():
        raise ShapeError(
            f"expected samples [N, D] or [N], got {name} of shape {list(value.shape)}; flatten "
            "batch dimensions"
        )
    array = value.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(array).all():
        raise NonFiniteError(f"expected finite {name}, got NaN or infinities; drop those rows")
    return array.reshape(len(array), -1)


def _codes(latent: Tensor) -> Array:
    if latent.ndim != 1:
        raise ShapeError(f"expected codes [N], got shape {list(latent.shape)}; flatten them")
    if latent.is_floating_point():
        raise ConfigurationError(
            f"expected integer codes, got {latent.dtype}; for a continuous code use ksg_information"
        )
    return latent.detach().cpu().numpy()


def _check_pairs(first: Array, second: Array) -> None:
    if len(first) != len(second):
        raise ShapeError(
            f"expected as many samples of both variables, got {len(first)} and {len(second)}; "
            "row i of both must belong together"
        )


def _check_neighbours(k: int, available: int) -> None:
    if not 1 <= k <= available:
        raise ConfigurationError(
            f"expected 1 <= k <= {max(available, 0)}, the number of possible neighbours, got "
            f"k = {k}; give more samples or fewer neighbours"
        )


def _check_distinct(distances: Array) -> None:
    if not distances.all():
        raise ConfigurationError(
            "expected samples of a continuous variable, got "
            f"{int((distances == 0).sum())} of {len(distances)} with as many equal ones as "
            "neighbours are sought; add a little noise (jitter)"
        )


def _check_particles(features: Tensor) -> None:
    if features.ndim != 2:
        raise ShapeError(
            f"expected features [N, D], got shape {list(features.shape)}; flatten batch dimensions"
        )
    if not bool(torch.isfinite(features).all()):
        raise NonFiniteError("expected finite features, got NaN or infinities; drop those rows")
