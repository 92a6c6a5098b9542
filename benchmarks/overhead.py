"""What modereg costs: reading the reward, training the discoverer, and TorchRL around it all.

    python benchmarks/overhead.py --json benchmarks/results/overhead.json

One run that alternates between variants of an iteration of fine-tuning on Avoid (collect, reward,
update; no evaluation, no checkpoint), CPU time on one thread, medians:

- ``without``: the loop of ``modereg.recipes`` without an intrinsic reward.
- ``reward``: with the reward of a frozen q, paid at the end of an episode, as after cluster
  discovery. ``reward_ratio`` is its time over that of ``without``.
- ``training``: with a ``VariationalModeDiscoverer`` that also learns from every batch.
  ``training_ratio`` is its time over that of ``without``.
- ``bare``: the computation of ``reward`` in plain torch, ``support/bare_loop.py``.
  ``bare_loop_ratio`` is its time over that of ``reward``, that is, our speed over the bare loop's.

Ratios are medians over rounds of the quotient within a round. Before every iteration networks and
optimisers are put back to the start, so that all variants do equal work. ``largest_difference``
compares the parameters that ``reward`` and ``bare`` end with after one iteration from one seed.
Each row: variant; seconds (median of an iteration); seconds_collect, seconds_learn (everything
after); env_steps, decisions and gradient_steps of an iteration; env_steps_per_second.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from support.bare_loop import BareLoop
from support.results import write_results

from modereg import keys
from modereg.discovery import VariationalModeDiscoverer
from modereg.estimators import CategoricalMI
from modereg.learners.base import Problem
from modereg.learners.config import PPOConfig
from modereg.learners.ppo import BATCHES, PPO
from modereg.priors import CategoricalPrior
from modereg.recipes.config import LogConfig, PretrainConfig, TaskConfig
from modereg.recipes.finetune import Stage, fit_inputs, learn
from modereg.recipes.follow import pretrain
from modereg.recipes.setup import Setup, set_up
from modereg.seeding import derived_seed, seed_generators
from modereg.transforms import MIReward
from modereg.wrapping import make_steering, observation_size

Iteration = Callable[[int], dict[str, float]]
SEED = 0


def make_stage(setup: Setup, config: PPOConfig, codes: int, kind: str) -> Stage:
    """Return what the recipes' loop works on, for one of the variants."""
    prior = CategoricalPrior(codes)
    env, judge_env = setup.steered(prior), setup.steered(prior, 1.0)
    seed_generators(SEED)
    steering = make_steering(env, setup.base, prior)
    fit_inputs(env, steering, SEED)
    estimator = CategoricalMI(observation_size(env, [keys.HISTORY]), prior, noise=0.03)
    online, reward = VariationalModeDiscoverer(estimator), None
    if kind != "without":
        reward = MIReward(estimator, env.layout, coef=0.3)
    reward_key = keys.REWARD if reward is None else keys.REGULARIZED_REWARD
    problem = Problem(env, steering, setup.base, reward_key, reward, SEED)
    trained = online if kind == "training" else None
    learner = PPO(problem, config)
    return Stage(setup, env, judge_env, prior, steering, learner, estimator, trained, reward, 0, {})


def make_bare(setup: Setup, config: PPOConfig, stage: Stage) -> BareLoop:
    """Return the bare loop on copies of a stage's networks."""
    steering, critic = copy.deepcopy((stage.steering.head, stage.learner.critic.module))
    return BareLoop(
        setup.task.make_env(setup.num_envs),
        setup.base,
        steering,
        critic,
        stage.estimator.network.module,
        num_codes=stage.prior.num_codes,
        decisions=setup.layout.max_decisions,
        config=config,
        gamma=setup.layout.gamma,
        coef=0.3,
    )


def run_stage(stage: Stage, number: int) -> dict[str, float]:
    """Time an iteration of the recipes' loop."""
    seed_generators(number)
    start = time.process_time()
    batch = stage.learner.collect()
    collected = time.process_time()
    learn(stage, batch)
    end = time.process_time()
    steps = int(batch.get(("next", keys.STEPS)).sum())
    return {"collect": collected - start, "learn": end - collected, "env_steps": steps}


def run_bare(loop: BareLoop, number: int) -> dict[str, float]:
    """Time an iteration of the bare loop; it reads the reward while it collects."""
    seed_generators(number)
    start = time.process_time()
    batch = loop.collect(derived_seed(SEED, BATCHES, 0))
    collected = time.process_time()
    loop.update(batch)
    end = time.process_time()
    steps = int(batch["length"].sum())
    return {"collect": collected - start, "learn": end - collected, "env_steps": steps}


def from_start(holders: list[Any], iteration: Iteration) -> Iteration:
    """Put networks and optimisers back before every iteration, outside of what is timed."""
    saved = [copy.deepcopy(holder.state_dict()) for holder in holders]

    def run(number: int) -> dict[str, float]:
        for holder, state in zip(holders, saved):
            holder.load_state_dict(copy.deepcopy(state))
        return iteration(number)

    return run


def make_variants(setup: Setup, config: PPOConfig, codes: int) -> tuple[dict[str, Iteration], Any]:
    """Return the variants by name, and a function that compares ``reward`` with ``bare``."""
    stages = {kind: make_stage(setup, config, codes, kind) for kind in VARIANTS[:-1]}
    bare = make_bare(setup, config, stages["reward"])
    variants: dict[str, Iteration] = {}
    for kind, stage in stages.items():
        holders = [stage.learner] + ([stage.online] if stage.online is not None else [])
        variants[kind] = from_start(holders, lambda number, stage=stage: run_stage(stage, number))
    holders = [bare.head, bare.critic, bare.optimizer]
    variants["bare"] = from_start(holders, lambda number: run_bare(bare, number))

    def difference() -> float:
        for kind in ("reward", "bare"):
            variants[kind](0)
        learner = stages["reward"].learner
        ours = [p for group in learner.optimizer.param_groups for p in group["params"]]
        return max(float((p - q).detach().abs().max()) for p, q in zip(ours, bare.parameters))

    return variants, difference


VARIANTS = ("without", "reward", "training", "bare")


def measure(setup: Setup, rounds: int, codes: int) -> dict[str, Any]:
    """Alternate between the variants and return the table."""
    config = PPOConfig().for_noise(setup.base.noise_shape.numel())
    variants, difference = make_variants(setup, config, codes)
    largest = difference()
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in VARIANTS}
    for number in range(rounds):
        order = VARIANTS if number % 2 == 0 else VARIANTS[::-1]
        for kind in order:
            found[kind].append(variants[kind](number))
    decisions = setup.num_envs * setup.layout.max_decisions
    updates = config.epochs * -(-decisions // config.minibatch)
    rows = [_row(kind, found[kind], decisions, updates) for kind in VARIANTS]
    return {
        "reward_ratio": _ratio(found, "reward", "without"),
        "training_ratio": _ratio(found, "training", "without"),
        "bare_loop_ratio": _ratio(found, "bare", "reward"),
        "largest_difference": largest,
        "num_envs": setup.num_envs,
        "codes": codes,
        "rounds": rounds,
        "rows": rows,
    }


def _seconds(figures: dict[str, float]) -> float:
    return figures["collect"] + figures["learn"]


def _ratio(found: dict[str, list[dict[str, float]]], above: str, below: str) -> float:
    pairs = zip(found[above], found[below])
    return round(statistics.median(_seconds(a) / _seconds(b) for a, b in pairs), 4)


def _row(
    kind: str, found: list[dict[str, float]], decisions: int, updates: int
) -> dict[str, float | str]:
    medians = {name: statistics.median(figures[name] for figures in found) for name in found[0]}
    seconds = statistics.median(_seconds(figures) for figures in found)
    return {
        "variant": kind,
        "seconds": round(seconds, 4),
        "seconds_collect": round(medians["collect"], 4),
        "seconds_learn": round(medians["learn"], 4),
        "env_steps": round(medians["env_steps"]),
        "decisions": decisions,
        "gradient_steps": updates,
        "env_steps_per_second": round(medians["env_steps"] / seconds),
    }


def make_base(folder: Path, steps: int, hidden: tuple[int, ...]) -> str:
    """Clone a base policy, well enough to have a usual episode."""
    quiet = LogConfig(tensorboard=False, progress=False)
    config = PretrainConfig(out=folder, hidden=hidden, steps=steps, log=quiet)
    pretrain(config)
    return str(folder / "policy")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, to see that it runs")
    parser.add_argument("--num-envs", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--codes", type=int, default=48)
    parser.add_argument("--base-steps", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.smoke:
        args.num_envs, args.rounds, args.base_steps = 64, 2, 20
    with tempfile.TemporaryDirectory() as folder:
        hidden = (32, 32) if args.smoke else PretrainConfig().hidden
        base = make_base(Path(folder) / "base", args.base_steps, hidden)
        setup = set_up(TaskConfig("task:avoid", num_envs=args.num_envs), base)
        result = measure(setup, args.rounds, args.codes)
    for row in result["rows"]:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print("  ".join(f"{key} {value}" for key, value in result.items() if key != "rows"))
    write_results(args.json, "What modereg costs", result)


if __name__ == "__main__":
    main()
