from modereg_integrations.mujoco.env import PointMaze as PointMaze
from modereg_integrations.mujoco.gym_env import PointMazeGym as PointMazeGym
from modereg_integrations.mujoco.kitchen.env import FrankaKitchen as FrankaKitchen
from modereg_integrations.mujoco.tasks import make_task as make_task
