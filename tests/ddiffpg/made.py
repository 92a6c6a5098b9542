"""Small learners of the Gaussian mixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from tensordict import TensorDictBase

from modereg import keys, plugins
from modereg.ddiffpg.learner import DDiffPG
from modereg.ddiffpg.making import Sizes, fit_scales, make_clusters, make_learner
from modereg.ddiffpg.options import DDiffPGOptions
from modereg.seeding import seed_generators
from modereg.tasks import gaussian_mixture_task
from modereg.tasks.gaussian_mixture import GOALS

SIZES = Sizes(
    capacity=128, embedding_dim=4, hidden=(32, 32), critic_hidden=(32, 32), inference_steps=3
)
OPTIONS = DDiffPGOptions(batch=64, climb_steps=2)


def learner(*, batches: int = 2, seed: int = 0, **options: float) -> DDiffPG:
    """Return one that has seen random episodes."""
    task, clusters = gaussian_mixture_task(), make_clusters("warped")
    seed_generators(seed)
    env = task.make_env(16)
    made = make_learner(
        env, task.layout, task.observation_keys, plugins.policy_loader("diffusers"), clusters,
        sizes=SIZES, options=replace(OPTIONS, **options), seed=seed,
    )  # fmt: skip
    made.prefill(batches)
    fit_scales(made)
    return made


def straight(made: DDiffPG) -> Callable[[TensorDictBase], TensorDictBase]:
    """Return a policy of which each row goes straight to one of the four goals, in turn."""
    goals = torch.tensor(GOALS)[torch.arange(made.collector.rows) % 4]

    def policy(tensordict: TensorDictBase) -> TensorDictBase:
        step = ((goals - tensordict[keys.OBSERVATION]) / 4).clamp(-0.08, 0.08)
        return tensordict.set(keys.ACTION, step[:, None].expand(-1, 4, -1))

    return policy


def taught(**options: float) -> DDiffPG:
    """Return one that has seen the way to each goal too, and found modes."""
    made = learner(**options)
    kept = made.collector.play(straight(made))
    pure = torch.ones(len(kept), dtype=torch.bool)
    made.replay.extend(kept.set("pure", pure), torch.zeros(len(kept), dtype=torch.int64))
    made.find_modes()
    return made
