r"""Wasserstein dependency: how far a code moves a state along its own direction, under a metric.

METRA is Park et al. (2024), arXiv 2310.08887; LSD is Park et al. (2022), arXiv 2202.00914. Nothing
here is in nats: the unit is that of the metric on states.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["centred_codes", "constraint_slack", "directed_step", "dual_loss"]


def centred_codes(one_hot: Tensor, probs: Tensor) -> Tensor:
    r""":math:`\frac{K}{K - 1} (e_z - p)`: directions of discrete codes that are 0 on average.

    METRA and LSD have the uniform :math:`p = 1 / K`: 1 in the code's own place and
    :math:`-1 / (K - 1)` elsewhere. Centring by p is what makes
    :math:`E[\phi(s)^\top f(z)]` a dependency, 0 for a code that never touches the state.

    Args:
        one_hot: ``[*B, K]``.
        probs: p, ``[K]``.

    Returns:
        ``[*B, K]``; 0 for a single code.
    """
    num_codes = one_hot.shape[-1]
    return (one_hot - probs.to(one_hot)) * (num_codes / max(num_codes - 1, 1))


def directed_step(phi_t: Tensor, phi_tp1: Tensor, direction: Tensor) -> Tensor:
    r""":math:`(\phi(s_{t+1}) - \phi(s_t))^\top z`, the objective of LSD and METRA.

    Args:
        phi_t: representation of the state, ``[*B, D]``.
        phi_tp1: of the next state, ``[*B, D]``.
        direction: of the code, ``[*B, D]``.

    Returns:
        ``[*B]``, in the unit of phi.
    """
    return ((phi_tp1 - phi_t) * direction).sum(-1)


def constraint_slack(
    phi_t: Tensor, phi_tp1: Tensor, squared_distance: Tensor, tolerance: float
) -> Tensor:
    r""":math:`\min(\varepsilon, d(s_t, s_{t+1})^2 - \|\phi(s_{t+1}) - \phi(s_t)\|^2)`.

    METRA, Algorithm 1: negative where a step is longer than its distance allows. The cap takes the
    gradient from steps that are short enough. The length is Euclid's, as in the paper; the code
    that was published with it takes the mean over the D components, so its steps may be
    :math:`\sqrt D` long.

    Args:
        phi_t: representation of the state, ``[*B, D]``.
        phi_tp1: of the next state, ``[*B, D]``.
        squared_distance: :math:`d^2`, ``[*B]``: 1 in METRA, Euclid's in LSD.
        tolerance: :math:`\varepsilon`, positive, in the unit of :math:`d^2`.

    Returns:
        ``[*B]``.
    """
    return (squared_distance - (phi_tp1 - phi_t).square().sum(-1)).clamp(max=tolerance)


def dual_loss(objective: Tensor, slack: Tensor, log_dual: Tensor) -> Tensor:
    r""":math:`-J - \lambda\, c`, and :math:`\log\lambda \cdot c` for the dual variable.

    As METRA's published code has it. Dual gradient descent in one sum: :math:`\lambda` is a
    constant for phi, the slack c one for :math:`\lambda`. So :math:`\log\lambda` falls in descent
    where the slack is positive on average and rises where the constraint is violated, at a rate
    that does not depend on its size.

    Args:
        objective: J, ``[*B]``.
        slack: c, ``[*B]``.
        log_dual: :math:`\log\lambda`, a scalar; read as at most 20, so that the loss stays finite.

    Returns:
        ``[*B]``.
    """
    dual = log_dual.detach().clamp(max=20.0).exp()
    return -objective - dual * slack + log_dual * slack.detach()
