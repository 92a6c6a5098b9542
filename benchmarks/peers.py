"""stable-baselines3 in noise space beside modereg: time to success, and what is left of the modes.

    python benchmarks/peers.py --json benchmarks/results/peers.json

Avoid with 24 modes, routes that pay 1 +- .3, one base policy a seed. All methods choose the noise
of the same frozen base in the same chunked environment, see the same standardised sine features of
position and time, and have networks of 128 x 2:

- ``sb3_ppo``: stable-baselines3's PPO with the batch, epochs, minibatch and rates of our recipe.
- ``sb3_sac``: its SAC, off-policy, in a box of +-2 as DSRL (arXiv 2506.15799) bounds the noise, 64
  environments, a gradient step of 512 decisions for each 4 decisions, target entropy ``auto``.
- ``plain``: our recipe with one code and no intrinsic reward.
- ``sac``: our soft actor-critic, plain, with its defaults: a hard backup, and a KL to the policy at
  the start in the place of the entropy.
- ``regularised``: stage 1, then our recipe with the intrinsic reward. Stage 1 is counted.

Each row: method; seed; seconds_to_95 and env_steps_to_95, CPU seconds on one thread and environment
steps until an evaluation with sampled noise shows a success of .95, None if none did (``stopped``
then says what ended the run); area, the mean success between the first evaluation, before anything
is learned, and ``--env-steps``; success, entropy, present_modes and commandable_modes of the last
evaluation, ``deterministic_`` by the mean noise; env_steps and seconds in all. Evaluations are not
counted. They are of the same kind for all: ``modereg.recipes.evaluate``, every
``--eval-steps`` or four seconds.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from support.results import write_results
from tensordict import TensorDictBase
from torch import Tensor, nn

from modereg import keys
from modereg.aggregates import area_under_curve
from modereg.learners.config import PPOConfig, SACConfig
from modereg.networks import FourierFeatures
from modereg.recipes.config import (
    ClusterConfig,
    DiscoverConfig,
    FinetuneConfig,
    LogConfig,
    PretrainConfig,
    TaskConfig,
)
from modereg.recipes.evaluate import evaluate_policy
from modereg.recipes.events import drain
from modereg.recipes.finetune import make_stage, reinforce
from modereg.recipes.follow import discover, pretrain
from modereg.recipes.setup import Setup, discrete, set_up
from modereg.rollouts import collect_episodes
from modereg.seeding import derived_seed, seed_generators

QUIET = LogConfig(tensorboard=False, progress=False)
TASK = TaskConfig("task:avoid", {"pay_spread": 0.3}, num_envs=512)
HIDDEN = (128, 128)
GOAL, MAX_WAIT = 0.95, 4.0
PPO_BOX, SAC_BOX = 6.0, 2.0
"""Bounds of the noise, which stable-baselines3 needs: wide for PPO, DSRL's for SAC."""


class Watch:
    """A clock of CPU time that stops while a method is judged, and remembers when it was good.

    Args:
        judge: returns the figures of a method as it is now, sampled.
        every: environment steps between evaluations; there is one every four seconds, too.
        max_seconds: when a run has to stop.
    """

    def __init__(self, judge: Callable[[], dict[str, Any]], every: int, max_seconds: float) -> None:
        self.judge, self.every, self.max_seconds = judge, every, max_seconds
        self.spent, self.started, self.next = 0.0, time.process_time(), 0
        self.reached: tuple[float, int] | None = None
        self.curve: list[tuple[int, float]] = []

    @property
    def seconds(self) -> float:
        """CPU seconds so far."""
        return self.spent + time.process_time() - self.started

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return self.seconds > self.max_seconds

    def look(self, env_steps: int) -> None:
        """Judge the method if it is time to."""
        waited = time.process_time() - self.started
        if env_steps < self.next and waited < MAX_WAIT:
            return
        self.spent = self.seconds
        self.next = env_steps + self.every
        success = self.judge()["success"]
        print(f"  {self.spent:6.1f} s  {env_steps / 1e6:.2f} M steps  success {success:.3f}")
        self.curve.append((env_steps, success))
        if success >= GOAL and self.reached is None:
            self.reached = (self.spent, env_steps)
        self.started = time.process_time()


class NoiseVecEnv(VecEnv):
    """A steered environment as stable-baselines3 has them; an action is a flattened noise.

    Args:
        setup: task and base.
        bound: bound of the noise.
    """

    def __init__(self, setup: Setup, bound: float) -> None:
        self.env, self.keys = setup.steered(1), setup.layout.steered_by
        self.shape = tuple(setup.base.noise_shape)
        self.bound, self.env_steps = bound, 0
        self.features = fit_features(setup, self.env)
        size, width = int(np.prod(self.shape)), self.features.out_features
        super().__init__(
            setup.num_envs,
            gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32),
            gymnasium.spaces.Box(-bound, bound, (size,), np.float32),
        )

    def observe(self, tensordict: TensorDictBase) -> Tensor:
        """Return the features of observation and time, ``[B, D]``."""
        return self.features(torch.cat([tensordict.get(key) for key in self.keys], -1))

    def reset(self) -> np.ndarray:
        """Begin anew in every sub-environment."""
        self.carrier = self.env.reset()
        return self.observe(self.carrier).numpy()

    def step_async(self, actions: np.ndarray) -> None:
        """Take the noises."""
        noise = torch.as_tensor(actions, dtype=torch.float32).view(-1, *self.shape)
        self.carrier.set(keys.ACTION, noise)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Play a chunk in every sub-environment."""
        transition, self.carrier = self.env.step_and_maybe_reset(self.carrier)
        ended = transition.get("next")
        self.env_steps += int(ended.get(keys.STEPS).sum())
        done = ended.get("done").squeeze(-1).numpy()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        rows = done.nonzero()[0]
        if len(rows):
            last = self.observe(ended[torch.from_numpy(rows)]).numpy()
            for row, observation in zip(rows, last):
                infos[row]["terminal_observation"] = observation
        reward = ended.get(keys.REWARD).squeeze(-1).numpy()
        return self.observe(self.carrier).numpy(), reward, done, infos

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute for every sub-environment."""
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, **options: Any) -> list[Any]:
        """Refuse: the sub-environments are no objects."""
        raise NotImplementedError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return that none is."""
        return [False] * self.num_envs


def fit_features(setup: Setup, env: Any) -> FourierFeatures:
    """Standardise the inputs by episodes of the base, as our recipe does."""
    env.set_seed(derived_seed(0, 3))
    keep = setup.layout.steered_by
    flat = collect_episodes(env, 512, keep=keep).flat()
    observed = torch.cat([flat.get(key) for key in keep], -1)
    features = FourierFeatures(observed.shape[-1])
    features.fit(observed)
    return features


class Budget(BaseCallback):
    """Judges a run of stable-baselines3 now and then, and ends it."""

    def __init__(self, env: NoiseVecEnv, watch: Watch, env_steps: int) -> None:
        super().__init__()
        self.vec, self.watch, self.env_steps = env, watch, env_steps

    def _on_step(self) -> bool:
        self.watch.look(self.vec.env_steps)
        return self.vec.env_steps < self.env_steps and not self.watch.late


def sb3_policy(model: Any, env: NoiseVecEnv) -> Callable[[TensorDictBase], TensorDictBase]:
    """Return a policy of tensordicts that acts as the model does."""

    def act(tensordict: TensorDictBase) -> TensorDictBase:
        from torchrl.envs.utils import ExplorationType, exploration_type

        mode = exploration_type() == ExplorationType.DETERMINISTIC
        action = model.policy._predict(env.observe(tensordict), deterministic=mode)
        action = action * env.bound if isinstance(model, SAC) else action
        noise = action.clamp(-env.bound, env.bound).view(-1, *env.shape)
        return tensordict.set(keys.ACTION, noise)

    return act


def sb3_ppo(env: NoiseVecEnv, seed: int, decisions: int) -> SB3PPO:
    """Return stable-baselines3's PPO with the settings of our recipe."""
    config = PPOConfig().for_noise(math.prod(env.shape))
    return SB3PPO(
        "MlpPolicy",
        env,
        learning_rate=config.learning_rate,
        n_steps=decisions,
        batch_size=config.minibatch,
        n_epochs=config.epochs,
        gamma=0.999**8,
        gae_lambda=config.lmbda,
        clip_range=config.clip,
        max_grad_norm=config.max_grad_norm,
        policy_kwargs={"net_arch": list(HIDDEN), "activation_fn": nn.Mish},
        seed=seed,
        device="cpu",
    )


def sb3_sac(env: NoiseVecEnv, seed: int) -> SAC:
    """Return stable-baselines3's SAC."""
    return SAC(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        buffer_size=200_000,
        learning_starts=5_000,
        batch_size=512,
        gamma=0.999**8,
        train_freq=1,
        gradient_steps=max(env.num_envs // 4, 1),
        policy_kwargs={"net_arch": list(HIDDEN)},
        seed=seed,
        device="cpu",
    )


def run_sb3(kind: str, setup: Setup, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train by stable-baselines3; return a row."""
    started = time.process_time()
    env = NoiseVecEnv(setup, SAC_BOX if kind == "sb3_sac" else PPO_BOX)
    decisions = setup.layout.max_decisions
    env.env.set_seed(derived_seed(seed, 5))
    model = sb3_sac(env, seed) if kind == "sb3_sac" else sb3_ppo(env, seed, decisions)
    policy, judged = sb3_policy(model, env), setup.steered(1, 1.0)

    def judge(deterministic: bool = False) -> dict[str, Any]:
        figures, _ = evaluate_policy(
            setup,
            judged,
            policy,
            num_codes=1,
            episodes=args.episodes,
            seed=seed + 20_000,
            deterministic=deterministic,
        )
        return figures

    watch = Watch(judge, args.eval_steps, args.max_seconds)
    watch.started = started
    model.learn(10**12, callback=Budget(env, watch, args.env_steps))
    return _row(kind, seed, watch, judge, env.env_steps, args.env_steps)


def run_ours(
    kind: str, setup: Setup, base: str, folder: Path, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Train by our recipe; return a row."""
    started, start = time.process_time(), None
    if kind == "regularised":
        start = str(folder / "discover")
        discover(
            DiscoverConfig(
                base=base, out=Path(start), task=args.task, seed=seed, log=QUIET, **args.discover
            )
        )
    config = FinetuneConfig(
        base=base,
        start=start,
        accept_uncommanded=start is not None,
        learner=SACConfig() if kind == "sac" else PPOConfig(),
        out=folder / kind,
        task=args.task,
        env_steps=args.env_steps,
        seed=seed,
        log=QUIET,
    )
    seed_generators(seed)
    stage = make_stage(config, setup)

    def judge(deterministic: bool = False) -> dict[str, Any]:
        figures, _ = evaluate_policy(
            setup,
            stage.judge_env,
            stage.steering,
            num_codes=discrete(stage.prior).num_codes,
            episodes=args.episodes,
            seed=seed + 20_000,
            deterministic=deterministic,
        )
        return figures

    watch, total = Watch(judge, args.eval_steps, args.max_seconds), [stage.spent]
    watch.started, watch.next = started, stage.spent

    def done(_: int, env_steps: int) -> bool:
        total[0] = env_steps
        watch.look(env_steps)
        return env_steps >= args.env_steps or watch.late

    never = 10**9
    drain(reinforce(stage, None, seed, done=done, total=never, eval_every=never, eval_episodes=1))
    return _row(kind, seed, watch, judge, total[0], args.env_steps)


def _row(
    kind: str,
    seed: int,
    watch: Watch,
    judge: Callable[..., dict[str, Any]],
    env_steps: int,
    until: int,
) -> dict[str, Any]:
    seconds = watch.seconds
    names = ("success", "entropy", "present_modes", "commandable_modes")
    sampled, mean = judge(), judge(deterministic=True)
    seconds_to, steps_to = watch.reached or (None, None)
    return {
        "method": kind,
        "seed": seed,
        "seconds_to_95": None if seconds_to is None else round(seconds_to, 1),
        "env_steps_to_95": steps_to,
        "area": round(area_under_curve(*zip(*watch.curve), until=until), 4),
        **{name: sampled[name] for name in names},
        **{f"deterministic_{name}": mean[name] for name in names},
        "env_steps": env_steps,
        "seconds": round(seconds, 1),
        "stopped": "time" if watch.late else "env_steps",
    }


METHODS = ("sb3_ppo", "sb3_sac", "plain", "sac", "regularised")


def run_seed(seed: int, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Clone a base and run all methods on it."""
    cloned = PretrainConfig(
        out=folder / "base", task=args.task, seed=seed, resume=True, log=QUIET, **args.clone
    )
    pretrain(cloned)
    base, rows = str(folder / "base" / "policy"), []
    setup = set_up(args.task, base)
    few = TaskConfig(args.task.name, args.task.options, num_envs=min(64, setup.num_envs))
    for kind in args.methods:
        print(kind, flush=True)
        if kind == "sb3_sac":
            rows.append(run_sb3(kind, set_up(few, base), seed, args))
        elif kind == "sb3_ppo":
            rows.append(run_sb3(kind, set_up(args.task, base), seed, args))
        else:
            rows.append(run_ours(kind, setup, base, folder, seed, args))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def main() -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true", help="a tiny budget, to see that it runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--env-steps", type=int, default=4_000_000)
    parser.add_argument("--eval-steps", type=int, default=150_000)
    parser.add_argument("--episodes", type=int, default=4096)
    parser.add_argument("--max-seconds", type=float, default=150.0)
    args = parser.parse_args()
    args.task, args.clone, args.discover = TASK, {}, {}
    if args.smoke:
        args.task = TaskConfig("task:avoid", {"pay_spread": 0.3}, num_envs=32)
        args.clone = {"episodes": 60, "hidden": (32, 32), "steps": 60}
        few = ClusterConfig(
            episodes=256, imitation_steps=20, refine_episodes=64, refine_steps=10, refinements=1
        )
        args.discover = {"method": few, "num_codes": 4, "final_episodes": 64}
        args.env_steps, args.eval_steps, args.episodes = 30_000, 10_000, 64
    torch.set_num_threads(1)
    rows = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows += run_seed(seed, args, Path(folder))
    write_results(args.json, "Peers in noise space", {"rows": rows})


if __name__ == "__main__":
    main()
