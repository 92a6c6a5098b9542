"""The subtasks of FrankaKitchen, when each is complete, and the orders in which all can be."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from modereg_integrations.mujoco.maze_geometry import Flags, Floats, Ints

__all__ = [
    "GOALS",
    "NEAR",
    "SUBTASKS",
    "complete",
    "mark_order",
    "modes_of_orders",
    "order_names",
    "orders",
]

GOALS = {
    "kettle": ((23, 24, 25, 26, 27, 28, 29), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
    "light switch": ((17, 18), (-0.69, -0.05)),
    "slide cabinet": ((19,), (0.37,)),
    "microwave": ((22,), (-0.75,)),
}
"""Of each subtask the positions among ``qpos`` and where they are to be, as in FrankaKitchen-v1."""

NEAR = 0.3
"""A subtask is complete within this distance of its goal, as in FrankaKitchen-v1."""

SUBTASKS = tuple(GOALS)


def orders(num_subtasks: int) -> Ints:
    """Return the orders of the first so many subtasks, ``[n!, n]``; the row is the mode."""
    return np.array(list(permutations(range(num_subtasks))), dtype=np.int64)


def order_names(num_subtasks: int) -> tuple[str, ...]:
    """Return the modes' names: the first letters of the subtasks in order, as in ``K-L-S``."""
    letters = [name[0].upper() for name in SUBTASKS]
    return tuple("-".join(letters[each] for each in order) for order in orders(num_subtasks))


def complete(qpos: Floats, num_subtasks: int) -> Flags:
    """Whether each subtask is complete now, ``[n]`` for positions ``[30]``."""
    goals = list(GOALS.values())[:num_subtasks]
    away = [np.linalg.norm(qpos[list(index)] - goal) for index, goal in goals]
    return np.array(away) < NEAR


def mark_order(order: Ints, completed: Flags) -> Ints:
    """Note the subtasks that are completed for the first time.

    Args:
        order: ``[n]``, the subtask that was completed as the k-th one, -1 where none was yet.
        completed: ``[n]``, whether each subtask is complete now. Of several at once the first one
            counts as earlier.

    Returns:
        ``[n]``.
    """
    order, begun = order.copy(), int((order >= 0).sum())
    new = [subtask for subtask in np.flatnonzero(completed) if subtask not in order]
    order[begun : begun + len(new)] = new
    return order


def modes_of_orders(order: Ints) -> Ints:
    """Modes of orders ``[N, n]``, ``[N]``, -1 until one subtask at most is left, which decides."""
    known = orders(order.shape[1])
    alike = (known == order[:, None]).sum(-1)  # [N, n!]
    decided = (order >= 0).sum(-1) >= order.shape[1] - 1
    return np.where(decided, alike.argmax(-1), -1)
