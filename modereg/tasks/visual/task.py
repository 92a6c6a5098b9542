"""The visual task with its chunk layout, its modes and its picture."""

from __future__ import annotations

from functools import partial

from modereg.keys import ELAPSED
from modereg.layout import Layout
from modereg.tasks.base import Task
from modereg.tasks.experts import demonstrate
from modereg.tasks.plots import Picture
from modereg.tasks.visual.env import (
    APPROACH_KEY,
    IMAGE_KEY,
    INSTRUCTION_KEY,
    STATE_KEY,
    WORDS_KEY,
    VisualAvoid,
)
from modereg.tasks.visual.expert import lead_by_routes
from modereg.tasks.visual.geometry import (
    DISC_RADIUS,
    DISC_X,
    DISC_Y,
    MODE_NAMES,
    NUM_MODES,
    POSTS,
)

__all__ = ["visual_avoid_task"]

HORIZON = 6
SEEN = (IMAGE_KEY, INSTRUCTION_KEY, STATE_KEY)


def visual_avoid_task(
    *,
    pay_spread: float = 0.3,
    start_noise: float = 0.03,
    action_noise: float = 0.3,
    image_size: int = 28,
    num_envs: int = 256,
) -> Task:
    """The visual task, ``task:visual_avoid``: six routes, chunks of 6 steps, all of them played.

    The base policy reads image, instruction and position. The steering policy and the critic read
    the position, the elapsed time and the words of the instruction; where the named disc is they
    leave to the base, which sees it. The discoverer sees the position as far as it tells routes
    and not discs.

    Args:
        pay_spread: how unequally the routes pay, see
            :func:`~modereg.tasks.visual.env.route_pay`.
        start_noise: half-width of the uniform noise on the start, in metres.
        action_noise: noise on the expert's executed actions, see
            :func:`~modereg.tasks.experts.demonstrate`.
        image_size: pixels along a side of an image.
        num_envs: sensible number of environments in a batch.
    """
    make_env = partial(
        VisualAvoid, start_noise=start_noise, image_size=image_size, pay_spread=pay_spread
    )
    return Task(
        name="visual_avoid",
        make_env=make_env,
        layout=Layout(
            max_steps=54,
            horizon=HORIZON,
            execute=HORIZON,
            steering_keys=(STATE_KEY, ELAPSED, WORDS_KEY),
            feature_keys=(APPROACH_KEY,),
            time_limit="terminates",
        ),
        observation_keys=SEEN,
        num_modes=NUM_MODES,
        mode_names=MODE_NAMES,
        demonstrate=partial(
            demonstrate,
            make_env,
            lead_by_routes,
            NUM_MODES,
            action_noise=action_noise,
            observed=(*SEEN, APPROACH_KEY),
        ),
        num_envs=num_envs,
        feature_noise=0.05,
        filmstrip_key=IMAGE_KEY,
        plot=Picture(
            NUM_MODES,
            xlim=(-0.5, 0.5),
            ylim=(0, 1),
            obstacles=POSTS,
            goals=[(x, DISC_Y, DISC_RADIUS) for x in (-DISC_X, DISC_X)],
        ),
    )
