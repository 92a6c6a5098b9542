r"""MuJoCo for modereg: a ball with inertia in a maze with six routes, and FrankaKitchen.

Needs the extra ``mujoco`` (``pip install modereg[mujoco]``), and for the kitchen ``kitchen``; the
names below are imported when they are first used. From the command line::

    modereg pretrain --task.name mujoco:point_maze --out runs/maze_base
    modereg discover --task.name mujoco:point_maze --base runs/maze_base/policy \
        --out runs/maze_codes
    modereg finetune sac --task.name mujoco:point_maze --base runs/maze_base/policy \
        --start runs/maze_codes --out runs/maze --env-steps 300000

Over three seeds, in routes that pay 1 +- .3, success went from .84 to .86 (base) to .998 to 1.000
with all six routes commandable (discovery, 147 to 149 thousand steps, 39 to 45 CPU seconds), and
stayed there (fine-tuning). Without ``--start`` a fine-tuning ends in a single route.
``benchmarks/foreign_policies.py --tasks mujoco`` does this.

``mujoco:kitchen`` is FrankaKitchen-v1 of gymnasium-robotics in a batch, told apart by the order in
which three of its subtasks are completed (``--task.options subtasks 4`` for all 24 orders of four),
with a scripted expert. ``benchmarks/bmd.py --tasks kitchen`` fine-tunes it.

Importing this package registers the maze with Gymnasium, so that
``gymnasium.make("modereg_integrations.mujoco:ModeregPointMaze-v0")`` makes a single one.
"""

import gymnasium

from modereg.lazy import attach
from modereg_integrations.mujoco.maze_geometry import ENV_ID, MAX_STEPS

if ENV_ID not in gymnasium.registry:
    gymnasium.register(
        ENV_ID,
        entry_point=f"{__name__}.gym_env:PointMazeGym",
        max_episode_steps=MAX_STEPS,
    )

__getattr__, __dir__, __all__ = attach(__name__, __file__)
