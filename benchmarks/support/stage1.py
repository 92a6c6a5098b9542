"""What one row of the benchmark of stage 1 is made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from support.codes import (
    Cells,
    fixed_codes,
    imitate_cells,
    judge_codes,
    set_input_noise,
)

from modereg import keys
from modereg.discovery import ClusterModeDiscoverer, SelfImitation, annealed
from modereg.discovery.judge import as_rows
from modereg.estimators import RewardEstimator
from modereg.priors import CategoricalPrior, Prior
from modereg.recipes.config import (
    ClusterConfig,
    DiscoverConfig,
    LogConfig,
    PretrainConfig,
    TaskConfig,
    VariationalConfig,
)
from modereg.recipes.discover import variational_stage
from modereg.recipes.finetune import learn
from modereg.recipes.follow import pretrain
from modereg.recipes.setup import set_up
from modereg.rollouts import collect_episodes
from modereg.seeding import derived_seed, seed_generators
from modereg.steering import SteeringPolicy
from modereg.storage import load_state, save_state
from modereg.wrapping import make_steering, observation_size

__all__ = ["Bench", "Budget", "Entry"]

QUIET = LogConfig(progress=False, tensorboard=False)
DRAWS = 48
"""Fixed draws of a continuous prior that are judged."""


@dataclass(frozen=True)
class Entry:
    """How an estimator is made from the features' length and K, and what bounds its reward.

    Attributes:
        make: returns the estimator.
        clamp: of the reward, nats, where the estimator has no limit of its own.
    """

    make: Callable[[int, int], RewardEstimator]
    clamp: tuple[float, float] | None = None


@dataclass(frozen=True)
class Budget:
    """A task, and how much is spent on it."""

    task: str
    clone_steps: int
    base_episodes: int
    imitation_steps: int
    refine_steps: int
    iterations: int
    episodes: int = 4096
    refinements: int = 5
    num_envs: int = 256


class Bench:
    """One seed of one task: a base, its clusters, and what begins there.

    Args:
        name: of the task.
        budget: of the task.
        seed: of everything.
        out: folder of what can be taken up again.
    """

    def __init__(self, name: str, budget: Budget, seed: int, out: Path) -> None:
        self.name, self.budget, self.seed = name, budget, seed
        self.out = out / name / f"seed{seed}"
        task = TaskConfig(budget.task, num_envs=budget.num_envs)
        cloned = PretrainConfig(
            out=self.out / "base",
            task=task,
            steps=budget.clone_steps,
            seed=seed,
            resume=True,
            log=QUIET,
        )
        self.setup = set_up(task, pretrain(cloned)["policy"])
        self.config = DiscoverConfig(task=task, seed=seed, log=QUIET)
        self.feature_dim = observation_size(self.setup.steered(1, 1.0), [keys.HISTORY])
        self.clusters = self._kept("clusters", self._cluster)
        self.num_codes = int(self.clusters["num_codes"])

    def steering(self, prior: Prior) -> SteeringPolicy:
        """Return a steering policy that is the base."""
        setup = self.setup
        return make_steering(setup.steered(prior, 1.0), setup.base, prior)

    def discoverer(self) -> ClusterModeDiscoverer:
        """Return what tells the clusters apart."""
        found = ClusterModeDiscoverer(
            self.feature_dim, self.num_codes, noise=self.setup.task.feature_noise
        )
        found.load_state_dict(self.clusters["discoverer"])
        return found

    def imitated(self, prior: Prior) -> tuple[SteeringPolicy, float]:
        """Return the start that imitation gives codes of a kind, and the CPU seconds it took."""
        state = self._kept(f"start {prior!r}", partial(self._imitate, prior))
        steering = self.steering(prior)
        steering.load_state_dict(state["steering"])
        return steering, state["seconds"] + self.clusters["seconds"]

    def row(
        self,
        method: str,
        start: str,
        steering: SteeringPolicy | None,
        prior: Prior,
        estimator: RewardEstimator | None,
        **figures: Any,
    ) -> dict[str, Any]:
        """Judge a policy and return its row."""
        judged = judge_codes(
            self.setup,
            steering,
            prior,
            fixed_codes(prior, DRAWS),
            episodes=self.budget.episodes,
            seed=self.seed,
            estimator=estimator,
        )
        codes = prior.num_codes or repr(prior)
        named = {"task": self.name, "seed": self.seed, "method": method, "start": start}
        return named | {"codes": codes} | judged | figures

    def base(self) -> dict[str, Any]:
        """Judge the cloned policy."""
        return self.row("base", "-", None, CategoricalPrior(1), None, env_steps=0, seconds=0.0)

    def imitation(self, method: str, prior: Prior) -> dict[str, Any]:
        """Judge the start that imitation gives, before any reinforcement learning."""
        steering, seconds = self.imitated(prior)
        estimator = self.discoverer().estimator if prior.num_codes else None
        spent = {"env_steps": self.clusters["env_steps"], "seconds": seconds}
        return self.row(method, "-", steering, prior, estimator, **spent)

    def cluster(self) -> dict[str, Any]:
        """Refine the imitation of discrete codes, as cluster discovery does, and judge it."""
        discoverer, budget, std = self.discoverer(), self.budget, ClusterConfig().std
        steering, seconds = self.imitated(discoverer.prior)
        limit = self.setup.layout.max_decisions
        stage = SelfImitation(
            steering, discoverer, refine_steps=budget.refine_steps, max_decisions=limit
        )
        env, env_steps = self.setup.steered(discoverer.prior, 1.0), self.clusters["env_steps"]
        started = time.process_time()
        for number in range(budget.refinements):
            env.set_seed(derived_seed(self.seed, 2, number))
            row, rolled = stage.refine(
                env,
                budget.episodes,
                std=annealed(std, number, budget.refinements),
                next_std=annealed(std, number + 1, budget.refinements),
            )
            env_steps += rolled.spent
            if row["commanded"] >= ClusterConfig().target:
                break
        spent = {"env_steps": env_steps, "seconds": seconds + time.process_time() - started}
        return self.row("cluster", "-", steering, discoverer.prior, discoverer.estimator, **spent)

    def reinforce(self, method: str, entry: Entry, start: str) -> dict[str, Any]:
        """Learn by reinforcement on an estimator's reward, and judge what came of it."""
        seed_generators(derived_seed(self.seed, 7))
        estimator = entry.make(self.feature_dim, self.num_codes)
        set_input_noise(estimator, self.setup.task.feature_noise or 0.0)
        steering, env_steps, seconds = None, 0, 0.0
        if start == "imitation":
            steering, seconds = self.imitated(estimator.prior)
            env_steps = self.clusters["env_steps"]
        started, figures = time.process_time(), {}
        options = VariationalConfig(iterations=self.budget.iterations)
        stage = variational_stage(
            self.config, options, self.setup, estimator=estimator, steering=steering
        )
        if entry.clamp is not None and stage.mi_reward is not None:
            stage.mi_reward.clamp = entry.clamp
        env_steps += stage.spent
        for _ in range(options.iterations):
            batch = stage.learner.collect()
            env_steps += int(batch.get(("next", keys.STEPS)).sum())
            figures = learn(stage, batch)
        spent = {"env_steps": env_steps, "seconds": seconds + time.process_time() - started}
        row = self.row(method, start, stage.steering, stage.prior, estimator, **spent)
        return row | {"training": figures}

    def _cluster(self) -> dict[str, Any]:
        """Roll out the base and cluster its episodes, as the recipe does."""
        started, setup = time.process_time(), self.setup
        env = setup.steered(1, 1.0)
        env.set_seed(derived_seed(self.seed, 0))
        episodes = collect_episodes(
            env,
            self.budget.base_episodes,
            keep=[*setup.layout.steered_by, keys.ACTION],
            final=setup.final_keys(env),
        )
        found, _ = ClusterModeDiscoverer.from_episodes(
            episodes.final.get(keys.HISTORY),
            episodes.final.get(keys.SUCCESS).squeeze(-1),
            noise=setup.task.feature_noise,
            history_length=setup.layout.max_decisions + 1,
            seed=self.seed,
        )
        stage = SelfImitation(
            self.steering(found.prior), found, max_decisions=setup.layout.max_decisions
        )
        return {
            "discoverer": dict(found.state_dict()),
            "num_codes": found.num_codes,
            "data": stage.triples(episodes, found.worth_imitating(episodes)).to_dict(),
            "env_steps": episodes.spent,
            "seconds": time.process_time() - started,
        }

    def _imitate(self, prior: Prior) -> dict[str, Any]:
        started, steps = time.process_time(), self.budget.imitation_steps
        seed_generators(derived_seed(self.seed, 1))
        data, steering = as_rows(self.clusters["data"]), self.steering(prior)
        if prior.num_codes is not None:
            limit = self.setup.layout.max_decisions
            SelfImitation(steering, self.discoverer(), max_decisions=limit).fit_triples(data, steps)
        else:
            imitate_cells(steering, data, Cells(prior, self.num_codes, self.seed), steps)
        return {
            "steering": dict(steering.state_dict()),
            "seconds": time.process_time() - started,
        }

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what was made before an interruption, or make and keep it."""
        path = self.out / f"{name}.pt"
        if not path.exists():
            save_state(path, make())
        return load_state(path)
