r"""MuJoCo for modereg: a ball with inertia in a maze with six routes, simulated by ``mujoco``.

Needs the extra ``mujoco`` (``pip install modereg[mujoco]``); the names below are imported when they
are first used. From the command line::

    modereg pretrain --task.name mujoco:point_maze --out runs/maze_base \
        --episodes 300 --steps 3000 --batch 256
    modereg discover --task.name mujoco:point_maze --base runs/maze_base/policy \
        --out runs/maze_codes --episodes 4096 --refinements 2 --refine-episodes 1536
    modereg finetune --task.name mujoco:point_maze --base runs/maze_base/policy \
        --start runs/maze_codes --out runs/maze --env-steps 3000000 \
        --ppo.learning-rate 1e-4 --ppo.std-learning-rate 1e-2 --ppo.kl-coef 1e-3

One run of these commands (seed 0; the routes pay 1 +- .3) took 21, 60 and 109 CPU seconds on a busy
machine. Success went from .65 (base) to .86 (discovery) and .987 (fine-tuning; .998 by the mean
noise), and all six routes stayed and can be commanded. Without ``--start`` the last command ends in
a single route. ``benchmarks/mujoco_maze.py`` does this over several seeds.

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
