r"""The mathematics of modereg as pure functions of tensors: one equation, one function.

Units of information are nats. ``[*B]`` is any batch, K the number of codes, N a number of points.
BMD is Longhini et al., Behavioral Mode Discovery, arXiv 2605.11387.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "adjusted_rand_index",
    "aliased_codes",
    "categorical_log_ratio",
    "clipped_surrogate",
    "contingency",
    "effective_number",
    "entropy",
    "inference_loss",
    "inference_nll",
    "kl_standard_normal",
    "mutual_information",
    "nearest_centroid",
    "normalized_entropy",
    "normalized_mutual_information",
    "shaping",
    "silhouette",
    "squared_distances",
    "variational_bound",
]


def categorical_log_ratio(logits: Tensor, latent: Tensor, log_prior: Tensor) -> Tensor:
    r""":math:`\log q(z \mid s) - \log p(z)`, BMD Eq. 2: at most :math:`-\log p(z)`.

    Args:
        logits: of q, ``[*B, K]``; finite, of any size.
        latent: codes z, ``[*B]`` int64 in [0, K), of positive probability.
        log_prior: log p of every code, ``[K]``.

    Returns:
        ``[*B]`` nats, of the logits' dtype.
    """
    return -inference_nll(logits, latent) - log_prior.to(logits.dtype)[latent]


def inference_nll(logits: Tensor, latent: Tensor) -> Tensor:
    r""":math:`-\log q(z \mid s)`: the cross entropy of each sample.

    Args:
        logits: of q, ``[*B, K]``.
        latent: codes z, ``[*B]`` int64.

    Returns:
        ``[*B]`` nats, not negative.
    """
    return -logits.log_softmax(-1).gather(-1, latent.unsqueeze(-1)).squeeze(-1)


def inference_loss(logits: Tensor, latent: Tensor) -> Tensor:
    r""":math:`-E \log q(z \mid s)`, what q minimises (BMD, the maximum of Eq. 1 over q).

    Args:
        logits: of q, ``[*B, K]``.
        latent: codes z, ``[*B]`` int64.

    Returns:
        A scalar, nats.
    """
    return inference_nll(logits, latent).mean()


def variational_bound(logits: Tensor, latent: Tensor, log_prior: Tensor) -> Tensor:
    r""":math:`E[\log q(z \mid s) - \log p(z)] \le I(Z; S)`, BMD Eq. 1 (Barber and Agakov, 2003).

    The gap is :math:`E\, KL(p(z \mid s) \| q(z \mid s))`. It is an estimate of a lower bound only
    on data that q was not trained on.

    Args:
        logits: of q, ``[*B, K]``.
        latent: codes z, ``[*B]`` int64.
        log_prior: log p of every code, ``[K]``.

    Returns:
        A scalar, nats.
    """
    return categorical_log_ratio(logits, latent, log_prior).mean()


def aliased_codes(log_prob: Tensor, latent: Tensor) -> Tensor:
    r"""Count the codes z with :math:`\arg\max_{z'} E[q(z' \mid s) \mid z] \ne z`.

    Such a code is taken for another one on average. Of n codes that lead to one and the same
    behaviour all but one are counted. Codes without a sample are not.

    Args:
        log_prob: log q of every code, ``[N, K]``.
        latent: codes z, ``[N]`` int64.

    Returns:
        A scalar int64 in [0, K).
    """
    num_codes = log_prob.shape[-1]
    confusion = log_prob.new_zeros(num_codes, num_codes).index_add_(0, latent, log_prob.exp())
    codes = torch.arange(num_codes, device=latent.device)
    seen = torch.bincount(latent, minlength=num_codes) > 0
    return (seen & (confusion.argmax(-1) != codes)).sum()


def shaping(l_tp1: Tensor, l_t: Tensor, gamma: float, steps: Tensor | int) -> Tensor:
    r""":math:`\gamma^n l_{t+1} - l_t`, the discounted difference of a potential l.

    Over an episode its discounted sum is :math:`\gamma^T l_T - l_0`, so nothing is gained by living
    longer (Ng, Harada and Russell, 1999: potential-based shaping).

    Args:
        l_tp1: the potential after the decision, ``[*B]``.
        l_t: the potential before it, ``[*B]``.
        gamma: discount of one environment step.
        steps: n, environment steps of the decision, ``[*B]`` or one int.

    Returns:
        ``[*B]``.
    """
    return gamma**steps * l_tp1 - l_t


def clipped_surrogate(log_weight: Tensor, advantage: Tensor, epsilon: float) -> Tensor:
    r""":math:`\min(r A, \mathrm{clip}(r, 1 - \epsilon, 1 + \epsilon) A)` with :math:`r = e^{w}`.

    Schulman et al., Proximal Policy Optimization, arXiv 1707.06347, Eq. 7.

    Args:
        log_weight: w, log of the probability ratio of new and old policy, ``[*B]``.
        advantage: A, ``[*B]``.
        epsilon: clip range.

    Returns:
        ``[*B]``, to be maximised.
    """
    clipped = log_weight.clamp(math.log1p(-epsilon), math.log1p(epsilon))
    return torch.minimum(log_weight.exp() * advantage, clipped.exp() * advantage)


def kl_standard_normal(loc: Tensor, scale: Tensor, event_dims: int = 1) -> Tensor:
    r""":math:`KL(N(\mu, \sigma^2) \| N(0, I)) = \sum (\mu^2 + \sigma^2 - 1) / 2 - \log \sigma`.

    Args:
        loc: mean, ``[*B, *E]``.
        scale: standard deviation, ``[*B, *E]``, positive.
        event_dims: number of dimensions in E, at least one.

    Returns:
        ``[*B]`` nats.
    """
    kl = 0.5 * (loc.square() + scale.square() - 1.0) - scale.log()
    return kl.flatten(-event_dims).sum(-1)


def entropy(weights: Tensor) -> Tensor:
    r""":math:`-\sum p \log p` of weights that are divided by their sum.

    Args:
        weights: non-negative, ``[*B, M]``: probabilities or counts; all zero counts as none.

    Returns:
        ``[*B]`` nats, float64, at most log M; 0 where all weights are zero.
    """
    weights = weights.to(torch.float64)
    probs = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return -torch.special.xlogy(probs, probs).sum(-1)


def normalized_entropy(counts: Tensor, num_modes: int) -> Tensor:
    r""":math:`H / \log M`, the behaviour entropy of D3IL (Jia et al., arXiv 2402.14606).

    Args:
        counts: episodes of each mode, ``[*B, M']``, of which M' may be less than ``num_modes``.
        num_modes: M; with one mode there is nothing to choose and the entropy is 0.

    Returns:
        ``[*B]`` in [0, 1], float64.
    """
    return entropy(counts) / math.log(num_modes) if num_modes > 1 else 0.0 * entropy(counts)


def effective_number(counts: Tensor) -> Tensor:
    r""":math:`e^{H}`, how many equally frequent kinds have the same entropy (Hill, 1973).

    Args:
        counts: ``[*B, M]``.

    Returns:
        ``[*B]`` in [1, M], float64.
    """
    return entropy(counts).exp()


def contingency(first: Tensor, second: Tensor, num_first: int, num_second: int) -> Tensor:
    """Count pairs of labels.

    Args:
        first: labels in [0, num_first), ``[N]`` int64.
        second: labels in [0, num_second), ``[N]`` int64.
        num_first: rows of the table.
        num_second: columns of the table.

    Returns:
        ``[num_first, num_second]`` int64; its sum is N.
    """
    pairs = first * num_second + second
    return torch.bincount(pairs, minlength=num_first * num_second).view(num_first, num_second)


def mutual_information(table: Tensor) -> Tensor:
    r""":math:`I(X; Y) = H(X) + H(Y) - H(X, Y)`, plug-in, of a contingency table.

    The plug-in estimate is biased upwards by about (rows - 1)(columns - 1) / 2N nats.

    Args:
        table: counts or joint probabilities, ``[*B, R, C]``.

    Returns:
        ``[*B]`` nats, float64, not negative.
    """
    joint = entropy(table.flatten(-2))
    return (entropy(table.sum(-1)) + entropy(table.sum(-2)) - joint).clamp_min(0.0)


def normalized_mutual_information(table: Tensor) -> Tensor:
    r""":math:`2 I(X; Y) / (H(X) + H(Y))`: 1 where the partitions agree up to names.

    Args:
        table: counts or joint probabilities, ``[*B, R, C]``.

    Returns:
        ``[*B]`` in [0, 1], float64; two partitions of a single part agree and give 1.
    """
    total = entropy(table.sum(-1)) + entropy(table.sum(-2))
    ratio = 2.0 * mutual_information(table) / total.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(total > 0, ratio, torch.ones_like(ratio)).clamp_max(1.0)


def adjusted_rand_index(table: Tensor) -> Tensor:
    r"""Agreement of two partitions, corrected for chance (Hubert and Arabie, 1985).

    With pairs :math:`b(n) = n (n - 1) / 2`, row sums a, column sums c and N points:
    :math:`(\sum b(n_{ij}) - E) / ((\sum b(a_i) + \sum b(c_j)) / 2 - E)`,
    :math:`E = \sum b(a_i) \sum b(c_j) / b(N)`.

    Args:
        table: counts, ``[R, C]``, of at least two points.

    Returns:
        A scalar, float64: 1 where the partitions agree up to names, about 0 by chance.
    """
    counts = table.to(torch.float64)
    pairs = (counts * (counts - 1) / 2).sum()
    rows, columns = counts.sum(-1), counts.sum(-2)
    row_pairs = (rows * (rows - 1) / 2).sum()
    column_pairs = (columns * (columns - 1) / 2).sum()
    total = counts.sum() * (counts.sum() - 1) / 2
    expected = row_pairs * column_pairs / total
    spread = 0.5 * (row_pairs + column_pairs) - expected
    return (pairs - expected) / spread if float(spread) else torch.ones_like(spread)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    r""":math:`\|x_i - y_j\|^2`, from the differences themselves, so equal points are at 0.

    Args:
        x: ``[N, D]``.
        y: ``[M, D]``.

    Returns:
        ``[N, M]``.
    """
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def nearest_centroid(x: Tensor, centroids: Tensor) -> Tensor:
    r""":math:`\arg\min_k \|x_i - c_k\|^2`; of equally near centroids the first.

    Args:
        x: ``[N, D]``.
        centroids: ``[K, D]``.

    Returns:
        ``[N]`` int64.
    """
    return squared_distances(x, centroids).argmin(-1)


def silhouette(features: Tensor, labels: Tensor) -> Tensor:
    r"""Mean of :math:`(b_i - a_i) / \max(a_i, b_i)` over points (Rousseeuw, 1987), exact.

    :math:`a_i` is the mean Euclidean distance to the other points of the same cluster and
    :math:`b_i` the smallest mean distance to another cluster. Points alone in their cluster count
    as 0. Memory grows with N squared: give a subset of a few thousand points.

    Args:
        features: ``[N, D]``.
        labels: ``[N]`` int64, not negative; numbers may be missing.

    Returns:
        A scalar in [-1, 1]; 0 where there is a single cluster.
    """
    _, labels = labels.unique(return_inverse=True)
    members = F.one_hot(labels).to(features.dtype)
    if members.shape[-1] < 2:
        return features.new_zeros(())
    sizes = members.sum(0)
    totals = squared_distances(features, features).sqrt() @ members
    own = labels.unsqueeze(-1)
    own_size = sizes[labels]
    within = totals.gather(-1, own).squeeze(-1) / (own_size - 1).clamp_min(1.0)
    between = (totals / sizes).scatter(-1, own, torch.inf).amin(-1)
    largest = torch.maximum(within, between).clamp_min(torch.finfo(features.dtype).tiny)
    return torch.where(own_size > 1, (between - within) / largest, 0.0).mean()
