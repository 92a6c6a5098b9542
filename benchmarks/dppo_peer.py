"""DPPO's public code beside ``modereg finetune dppo``, on the same base and task.

    git clone https://github.com/irom-princeton/dppo && pip install einops
    python benchmarks/dppo_peer.py --code dppo --json benchmarks/results/dppo_peer.json

Avoid, routes that pay 1 +- .3, plain fine-tuning of all 8 denoising steps of a base that ``modereg
pretrain`` cloned. Of DPPO (arXiv 2409.00588) the loss, the sampler, the critic and eta are imported
from the folder ``--code``; the loop around them is its agent's, with the options of its
configuration for robomimic's MLP policies: batches of 10 000 steps, 10 epochs, learning rates 1e-4
and 1e-3, clip range .001 to .01, eta 1, standard deviation at least .1, gamma .999 a decision,
lambda .95, two batches for the critic alone. Its networks see observations at unit scale. Its DDIM
is given the time steps of the base's scheduler; that it then decodes as the base does is checked.
Ours has its defaults.

Rows: method, seed, success, return, entropy (by log 24), present (modes), env_steps, seconds (CPU;
ours with its evaluations, DPPO's without), steps_to_90 and steps_to_95 (the first evaluation of 512
episodes with as much success, every fourth batch; null where none had it). Without ``--code`` only
ours is run.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from finetuners import QUIET, judged, steps_to
from support.commands import cpu_seconds, run
from support.results import write_results
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from modereg import keys
from modereg.files import read_json
from modereg.policies import GenerativePolicy
from modereg.recipes.config import TaskConfig
from modereg.recipes.evaluate import evaluate_policy
from modereg.recipes.setup import set_up
from modereg.wrapping import SteeredEnv

ROWS, SPREAD = 512, 0.3
BATCH, EPOCHS, GAMMA, LAMBDA, WARM_UP, CLIP_KL = 10_000, 10, 0.999, 0.95, 2, 1.0


class Epsilon(nn.Module):
    """The base's denoiser as DPPO calls one: ``(x, t, cond) -> epsilon``, t a step's place."""

    def __init__(self, policy: GenerativePolicy, size: int) -> None:
        super().__init__()
        self.policy, self.size = policy, size

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Return the noise that the denoiser sees in x, ``[B, H, A]`` both."""
        part = self.policy.denoising(0.0)
        step = len(part.keep) - 1 - t
        guess = part.predicted(x, step, cond["state"][:, : self.size])
        signal, noise = (v.to(x)[step][:, None, None] for v in (part.path.signal, part.path.noise))
        return (x - signal * guess) / noise


class Theirs:
    """DPPO's model on a base, its loop, and what a steered environment plays of it.

    Args:
        base: reads ``observation``.
        env: steered, with one code.
    """

    def __init__(self, base: GenerativePolicy, env: SteeredEnv) -> None:
        from model.common.critic import CriticObs
        from model.diffusion.diffusion_ppo import PPODiffusion
        from model.diffusion.eta import EtaFixed

        self.env, part = env, base.denoising(0.0)
        data = env.reset()
        self.size = data["observation"].shape[-1]
        cond = self.state(data).shape[-1]
        trained = copy.deepcopy(base).requires_grad_(True)
        horizon, action = base.chunk_shape
        self.units = part
        self.model = PPODiffusion(
            actor=Epsilon(trained, self.size),
            critic=CriticObs(cond, [256, 256, 256], "Mish", residual_style=True),
            eta=EtaFixed(base_eta=1.0, max_eta=1.0 + 1e-6),
            ft_denoising_steps=len(part.keep),
            denoising_steps=100,
            ddim_steps=len(part.keep),
            use_ddim=True,
            horizon_steps=horizon,
            action_dim=action,
            obs_dim=self.size,
            device="cpu",
            denoised_clip_value=None if part.clipping is None else part.clipping.bound,
            randn_clip_value=3,
            min_sampling_denoising_std=0.1,
            min_logprob_denoising_std=0.1,
            gamma_denoising=0.99,
            clip_ploss_coef=0.01,
            clip_ploss_coef_base=0.001,
        )
        self._take_schedule()
        self.actor = torch.optim.AdamW(self.model.actor_ft.parameters(), 1e-4, weight_decay=0.0)
        self.critic = torch.optim.AdamW(self.model.critic.parameters(), 1e-3, weight_decay=0.0)
        self.deterministic, self.batches = True, 0
        self.drawn: list[Tensor] = []
        self._seen: list[Tensor] = []
        self._scale = _RunningScale()

    def _take_schedule(self) -> None:
        """Give its DDIM the alphas of the base's time steps, the noisiest first."""
        path, model = self.units.path, self.model
        alphas = (path.signal / (path.signal**2 + path.noise**2).sqrt()).float() ** 2
        model.ddim_t = torch.arange(len(alphas) - 1, -1, -1)
        model.ddim_alphas = alphas
        model.ddim_alphas_prev = torch.cat([alphas[1:], torch.ones(1)])
        model.ddim_alphas_sqrt = alphas.sqrt()
        model.ddim_sqrt_one_minus_alphas = (1.0 - alphas).sqrt()

    def observation_entries(self, data: TensorDictBase) -> list[NestedKey]:
        """Return what it reads."""
        return ["observation", "elapsed"]

    @property
    def steered_entries(self) -> list[NestedKey]:
        """What it reads of a steered environment."""
        return ["observation", "elapsed"]

    def state(self, data: TensorDictBase) -> Tensor:
        """Return what its networks see, ``[B, d]``: the base's observation, and the time."""
        return torch.cat([data["observation"], data["elapsed"].float() / 50.0], -1)

    def decode_from(self, data: TensorDictBase, noise: Tensor) -> Tensor:
        """Return chunks ``[B, H, A]`` that its sampler draws."""
        state = self.state(data)
        sample = self.model({"state": state}, deterministic=self.deterministic)
        if not self.deterministic:
            self.drawn.append(sample.chains)
            self._seen.append(state)
        return self.units.chunk(sample.trajectories)

    def iterate(self, decisions: int) -> int:
        """Collect a batch from fresh resets and learn from it; return its environment steps."""
        self.deterministic, self.drawn, self._seen = False, [], []
        data = self.env.rollout(decisions, break_when_any_done=False)
        self.deterministic = True
        chains, states = torch.stack(self.drawn), torch.stack(self._seen)  # [T, B, ...]
        reward, done = (data["next", name].squeeze(-1).T for name in ("reward", "terminated"))
        ended = data["next", "done"].squeeze(-1).T
        last = self.state(data["next"])[:, -1]
        reward = self._scale(reward, ended)
        with torch.no_grad():
            values = self.model.critic(states.flatten(0, 1)).view(states.shape[:2])
            after = torch.cat([values[1:], self.model.critic(last).view(1, -1)])
            flat = {"state": states.flatten(0, 1)}
            before = self.model.get_logprobs(flat, chains.flatten(0, 1))
        advantage, rest = torch.zeros_like(values), torch.zeros(values.shape[1])
        for t in range(len(values) - 1, -1, -1):
            goes_on = 1.0 - done[t].float()
            delta = reward[t] + GAMMA * after[t] * goes_on - values[t]
            rest = advantage[t] = delta + GAMMA * LAMBDA * goes_on * rest
        self._learn(chains, states, values, advantage, before)
        return int(data["next", keys.STEPS].sum())

    def _learn(
        self, chains: Tensor, states: Tensor, values: Tensor, advantage: Tensor, before: Tensor
    ) -> None:
        steps = self.model.ft_denoising_steps
        chains, state = chains.flatten(0, 1), states.flatten(0, 1)
        values, advantage = values.flatten(), advantage.flatten()
        returns, before = advantage + values, before.view(len(state), steps, *chains.shape[2:])
        self.batches += 1
        for _ in range(EPOCHS):
            order = torch.randperm(len(state) * steps)
            for part in order.split(BATCH)[: max(1, len(order) // BATCH)]:
                row, step = part // steps, part % steps
                policy, _, value, _, kl, *_ = self.model.loss(
                    {"state": state[row]}, chains[row, step], chains[row, step + 1], step,
                    returns[row], values[row], advantage[row], before[row, step],
                    reward_horizon=self.env.layout.played,
                )  # fmt: skip
                self.actor.zero_grad()
                self.critic.zero_grad()
                (policy + 0.5 * value).backward()
                if self.batches > WARM_UP:
                    self.actor.step()
                self.critic.step()
                if kl > CLIP_KL:
                    return


class _RunningScale:
    """Divides rewards by the standard deviation of discounted returns so far, as its agent does."""

    def __init__(self) -> None:
        self.number, self.mean, self.square = 1e-4, 0.0, 1.0

    def __call__(self, reward: Tensor, ended: Tensor) -> Tensor:
        """Return rewards ``[T, B]`` scaled."""
        sums, rest = [], torch.zeros(reward.shape[1])
        for now, over in zip(reward, ended, strict=True):
            rest = rest * GAMMA + now
            sums.append(rest.clone())
            rest = rest * (1.0 - over.float())
        found = torch.stack(sums).flatten()
        number, mean, square = len(found), float(found.mean()), float(found.var(correction=0))
        total, away = self.number + number, mean - self.mean
        spread = self.square * self.number + square * number
        spread += away**2 * self.number * number / total
        self.mean, self.square = self.mean + away * number / total, spread / total
        self.number = total
        return reward / (self.square + 1e-8) ** 0.5


def theirs(out: Path, seed: int, env_steps: int, episodes: int) -> dict[str, Any]:
    """Train by DPPO's code, and return the row."""
    torch.manual_seed(seed)
    task = TaskConfig("task:avoid", {"pay_spread": SPREAD}, num_envs=ROWS)
    setup = set_up(task, str(out / "base" / "policy"))
    env = setup.steered(1)
    player = Theirs(setup.base, env)
    check(player, setup.base, env)
    env.set_decoder(player)
    spent, seconds, curve = 0, 0.0, []
    while spent < env_steps:
        began = time.process_time()
        spent += player.iterate(setup.task.layout.max_decisions)
        seconds += time.process_time() - began
        if player.batches % 4 == 0:
            found = evaluate_policy(setup, env, None, num_codes=1, episodes=512, seed=seed)[0]
            curve.append((spent, found["success"]))
            print(curve[-1], flush=True)
    found = evaluate_policy(setup, env, None, num_codes=1, episodes=episodes, seed=seed)[0]
    return figures(found) | summed(spent, seconds, curve)


@torch.no_grad()
def check(player: Theirs, base: GenerativePolicy, env: SteeredEnv) -> None:
    """Refuse a sampler that is not the base's before anything is learned."""
    data, noise = env.reset(), torch.randn(ROWS, *base.noise_shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = player.decode_from(data, noise)
        torch.manual_seed(0)
        expected = base.decode_from(data, torch.randn(ROWS, *base.noise_shape))
    away = float((found - expected).abs().max() / expected.abs().max())
    if away > 1e-3:
        raise SystemExit(f"DPPO's sampler is {away:.3f} away from the base's")


def ours(out: Path, seed: int, env_steps: int, episodes: int) -> dict[str, Any]:
    """Train by ``modereg finetune dppo``, unless that is done, and return the row."""
    folder = out / f"modereg-{env_steps}"
    if not (folder / "summary.json").exists():
        run(
            "finetune dppo", *QUIET, task__name="task:avoid", task__num_envs=ROWS,
            task__options=("pay_spread", SPREAD), base=out / "base" / "policy", seed=seed,
            out=folder, env_steps=env_steps, eval_every=4, eval_episodes=512,
            final_episodes=episodes,
        )  # fmt: skip
    summary = read_json(folder / "summary.json")
    rest = summed(summary["env_steps"], cpu_seconds(folder), judged(folder))
    return figures(summary["sampled"]) | rest


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """Return what was judged."""
    names = {"success": "success", "return": "mean_return", "entropy": "entropy"}
    return {name: round(found[key], 4) for name, key in names.items()} | {
        "present": found["present_modes"]
    }


def summed(spent: int, seconds: float, curve: list[tuple[int, float]]) -> dict[str, Any]:
    """Return what it cost, and when success was first seen."""
    return {
        "env_steps": spent,
        "seconds": round(seconds, 1),
        "steps_to_90": steps_to(0.9, curve),
        "steps_to_95": steps_to(0.95, curve),
    }


def main() -> None:
    """Run both, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--code", type=Path, help="folder of DPPO's repository")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--env-steps", type=int, default=2_000_000)
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.out or Path("runs") / ("dppo_peer_smoke" if args.smoke else "dppo_peer")
    steps, episodes = (30_000, 128) if args.smoke else (args.env_steps, 4096)
    methods = {"modereg": ours}
    if args.code is not None:
        sys.path.insert(0, str(args.code.resolve()))
        methods["dppo"] = theirs
    rows = []
    for seed in args.seeds[: 1 if args.smoke else None]:
        folder = (out / f"seed{seed}").resolve()
        if not (folder / "base" / "summary.json").exists():
            more: dict[str, Any] = {"episodes": 200, "steps": 50} if args.smoke else {}
            more |= {"task__name": "task:avoid", "out": folder / "base", "seed": seed}
            run("pretrain", *QUIET[:2], "--resume", **more)
        for method, train in methods.items():
            row = {"method": method, "seed": seed} | train(folder, seed, steps, episodes)
            rows.append(row)
            print(row, flush=True)
            write_results(args.json, "DPPO's public code on Avoid", {"rows": rows})


if __name__ == "__main__":
    main()
