"""The maze: its walls, gaps, goal and modes, in metres, and its MJCF; pure numpy.

Two walls cross a closed field. The lower one has two gaps and the upper one three, so that six
routes lead from the start at the bottom to the goal at the top.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONTROL_STEP",
    "DAMPING",
    "ENV_ID",
    "GAPS",
    "GAP_HALF_WIDTH",
    "GOAL",
    "GOAL_RADIUS",
    "HALF_HEIGHT",
    "HALF_WIDTH",
    "MASS",
    "MAX_FORCE",
    "MAX_STEPS",
    "MODE_NAMES",
    "NUM_MODES",
    "RADIUS",
    "ROWS_Y",
    "START",
    "SUBSTEPS",
    "TIMESTEP",
    "WALL_HALF_THICKNESS",
    "gaps_of_modes",
    "make_mjcf",
    "mark_gaps",
    "modes_of_gaps",
    "reaches_goal",
    "wall_boxes",
]

ENV_ID = "ModeregPointMaze-v0"
MAX_STEPS = 80
TIMESTEP = 0.01
"""Seconds of a step of the physics."""
SUBSTEPS = 5
CONTROL_STEP = SUBSTEPS * TIMESTEP
"""Seconds of an environment step, during which the force is constant."""

MASS = 1.0
RADIUS = 0.04
DAMPING = 4.0
"""Newtons per metre and second; speed decays with a time constant of ``MASS / DAMPING``."""
MAX_FORCE = 4.0
"""Newtons per axis of an action of 1; the final speed under it is ``MAX_FORCE / DAMPING``."""

HALF_WIDTH = 0.8
HALF_HEIGHT = 0.75
START = (0.0, -0.6)
GOAL = (0.0, 0.6)
GOAL_RADIUS = 0.1
ROWS_Y = (-0.25, 0.25)
"""y of the two walls that cross the field."""
GAPS = ((-0.3, 0.3), (-0.5, 0.0, 0.5))
"""x of the centres of each wall's gaps, from left to right."""
GAP_HALF_WIDTH = 0.1
WALL_HALF_THICKNESS = 0.02

MODE_NAMES = tuple("-".join(gaps) for gaps in product("LR", "LMR"))
"""The gaps of the two walls, as in ``L-M``; mode = 3 gap_1 + gap_2."""
NUM_MODES = len(MODE_NAMES)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


def wall_boxes() -> list[tuple[float, float, float, float]]:
    """Return centre x, centre y, half width and half height of every wall, the border last."""
    thick = WALL_HALF_THICKNESS
    boxes = []
    for y, gaps in zip(ROWS_Y, GAPS):
        edges = [edge for x in gaps for edge in (x - GAP_HALF_WIDTH, x + GAP_HALF_WIDTH)]
        ends = [-HALF_WIDTH, *edges, HALF_WIDTH]
        for left, right in zip(ends[::2], ends[1::2]):
            boxes.append(((left + right) / 2, y, (right - left) / 2, thick))
    for side in (-1, 1):
        boxes.append((side * (HALF_WIDTH + thick), 0.0, thick, HALF_HEIGHT + 2 * thick))
        boxes.append((0.0, side * (HALF_HEIGHT + thick), HALF_WIDTH, thick))
    return boxes


def make_mjcf() -> str:
    """Return the model as MJCF: walls, a ball on two slides, and a motor for each.

    The slides' positions are the ball's x and y; a control of 1 is ``MAX_FORCE``.
    """
    walls = "".join(
        f'<geom type="box" pos="{x:g} {y:g} {RADIUS:g}" size="{width:g} {height:g} {RADIUS:g}"/>'
        for x, y, width, height in wall_boxes()
    )
    slides = "".join(
        f'<joint name="{name}" type="slide" axis="{axis}" damping="{DAMPING:g}"/>'
        for name, axis in (("x", "1 0 0"), ("y", "0 1 0"))
    )
    motors = "".join(
        f'<motor joint="{name}" gear="{MAX_FORCE:g}" ctrllimited="true" ctrlrange="-1 1"/>'
        for name in "xy"
    )
    goal = f'<site type="cylinder" pos="{GOAL[0]:g} {GOAL[1]:g} 0" size="{GOAL_RADIUS:g} 0.001"/>'
    ball = f'<geom type="sphere" size="{RADIUS:g}" mass="{MASS:g}"/>'
    return (
        f'<mujoco model="point_maze"><option timestep="{TIMESTEP:g}" gravity="0 0 0"/>'
        f'<worldbody>{walls}{goal}<body name="ball" pos="0 0 {RADIUS:g}">{slides}{ball}</body>'
        f"</worldbody><actuator>{motors}</actuator></mujoco>"
    )


def mark_gaps(gaps: Ints, position: Floats) -> Ints:
    """Note the gap through which each wall is first crossed.

    Args:
        gaps: ``[*B, 2]``, gaps so far, counted from the left, -1 where a wall is not crossed yet.
        position: ``[*B, 2]``, x and y in metres after a step.

    Returns:
        ``[*B, 2]``.
    """
    found = []
    for row, (y, centres) in enumerate(zip(ROWS_Y, GAPS)):
        middles = np.add(centres[:-1], centres[1:]) / 2
        gap = np.searchsorted(middles, position[..., 0])
        crossed = (gaps[..., row] < 0) & (position[..., 1] > y)
        found.append(np.where(crossed, gap, gaps[..., row]))
    return np.stack(found, -1)


def modes_of_gaps(gaps: Ints) -> Ints:
    """Modes of gaps ``[*B, 2]``, ``[*B]``, -1 until both walls are crossed."""
    mode = gaps[..., 0] * len(GAPS[1]) + gaps[..., 1]
    return np.where((gaps >= 0).all(-1), mode, -1)


def gaps_of_modes(modes: Ints) -> Ints:
    """Gaps of modes ``[*B]``, counted from the left, ``[*B, 2]``."""
    return np.stack([modes // len(GAPS[1]), modes % len(GAPS[1])], -1)


def reaches_goal(position: Floats) -> Flags:
    """Whether the ball's centre is in the goal's disc, ``[*B]`` for positions ``[*B, 2]``."""
    return np.hypot(position[..., 0] - GOAL[0], position[..., 1] - GOAL[1]) < GOAL_RADIUS
