"""Somebody else's training script: a diffusion policy on the goal dictionary.

    python train.py policy

A scripted hand, which shakes, leads the ball along way points with a PD controller. The denoiser is
diffusers' UNet1DModel behind a condition: the goal dictionary flat, in the order of gymnasium's
``flatten``, brought to mean 0 and standard deviation 1, goes through a small network, whose outputs
are further channels that are constant over the horizon. It predicts the noise and is sampled by
DDIM; of 16 actions the first is for now, and 8 are played.

Writes a folder ``policy`` with ``denoiser/`` and ``scheduler/`` as diffusers saves them, and
``stats.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gymnasium
import numpy as np
import torch
from diffusers import ConfigMixin, DDIMScheduler, ModelMixin, UNet1DModel
from diffusers.configuration_utils import register_to_config
from maze import GAPS
from torch import Tensor, nn

KEYS = ("achieved_goal", "desired_goal", "observation")
HORIZON, ACTIONS, OBSERVED = 16, 2, 8


class FlatConditionUNet(ModelMixin, ConfigMixin):
    """A UNet1DModel that is called as ``(sample [B, H, A], timestep, global_cond [B, C])``."""

    @register_to_config
    def __init__(self, observed: int = OBSERVED, channels: int = 24, width: int = 64) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(observed, 128), nn.Mish(), nn.Linear(128, channels))
        self.unet = UNet1DModel(
            sample_size=HORIZON,
            in_channels=ACTIONS + channels,
            out_channels=ACTIONS,
            extra_in_channels=0,
            time_embedding_type="positional",
            use_timestep_embedding=True,
            flip_sin_to_cos=False,
            freq_shift=1.0,
            act_fn="mish",
            block_out_channels=(width, width),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownResnetBlock1D", "DownResnetBlock1D"),
            up_block_types=("UpResnetBlock1D",),
            mid_block_type="MidResTemporalBlock1D",
            out_block_type="OutConv1DBlock",
        )

    def forward(self, sample: Tensor, timestep: Tensor, global_cond: Tensor) -> Tensor:
        """Predict the noise, ``[B, H, A]``."""
        condition = self.encode(global_cond)[..., None].expand(-1, -1, HORIZON)
        return self.unet(torch.cat([sample.mT, condition], 1), timestep).sample.mT


def way_points(goal: np.ndarray, first: int, second: int) -> list[np.ndarray]:
    """Where to go for one of the six routes."""
    low, high = GAPS[0][first], GAPS[1][second]
    return [*np.array([[-2.4, low], [-0.6, low], [0.6, high], [2.4, high]]), goal]


def episode(env: gymnasium.Env, seed: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One demonstration along a random route, at its own pace; failed ones are thrown away."""
    while True:
        observation, info = env.reset(seed=seed)
        points = way_points(observation["desired_goal"], rng.integers(3), rng.integers(2))
        pace, seen, actions, done = rng.uniform(2.0, 2.8), [], [], False
        while not done:
            place, velocity = np.split(observation["observation"], 2)
            while len(points) > 1 and np.linalg.norm(points[0] - place) < 0.3:
                points.pop(0)
            way = points[0] - place
            wanted = pace * way / max(float(np.linalg.norm(way)), 1e-6)
            force = np.clip(0.4 * (wanted - velocity) + rng.normal(0.0, 0.1, 2), -1.0, 1.0)
            seen.append(np.concatenate([observation[key] for key in KEYS]))
            actions.append(force)
            observation, _, terminated, truncated, info = env.step(force)
            done = terminated or truncated
        if info["success"]:
            return {"observation": np.stack(seen), "action": np.stack(actions)}
        seed += 100_000


def chunks(episodes: list[dict[str, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Observations ``[n, 8]`` and the 16 actions from there on ``[n, 16, 2]``, ends repeated."""
    ahead = []
    for data in episodes:
        index = np.arange(len(data["action"]))[:, None] + np.arange(HORIZON)
        ahead.append(data["action"][index.clip(max=len(data["action"]) - 1)])
    seen = np.concatenate([data["observation"] for data in episodes])
    return torch.tensor(seen).float(), torch.tensor(np.concatenate(ahead)).float()


def train(folder: Path, episodes: int, steps: int, seed: int) -> None:
    """Clone the demonstrations and save the policy."""
    torch.manual_seed(seed)
    rng, env = np.random.default_rng(seed), gymnasium.make("SixRoutes-v0", gusts=0.4)
    seen, ahead = chunks([episode(env, seed * 1000 + i, rng) for i in range(episodes)])
    print(f"{episodes} demonstrations, {len(seen)} steps", flush=True)
    stats = {
        "observation": {"mean": seen.mean(0).tolist(), "std": seen.std(0).tolist()},
        "action": {"mean": ahead.mean((0, 1)).tolist(), "std": ahead.std((0, 1)).tolist()},
    }
    seen, ahead = scale(seen, stats["observation"]), scale(ahead, stats["action"])
    denoiser = FlatConditionUNet()
    noiser = DDIMScheduler(100, beta_schedule="squaredcos_cap_v2", clip_sample=False)
    optimizer = torch.optim.AdamW(denoiser.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        index = torch.randint(len(seen), (256,))
        clean, noise = ahead[index], torch.randn(256, HORIZON, ACTIONS)
        times = torch.randint(100, (256,))
        noisy = noiser.add_noise(clean, noise, times)
        loss = (denoiser(noisy, times, seen[index]) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    denoiser.save_pretrained(folder / "denoiser")
    noiser.save_pretrained(folder / "scheduler")
    (folder / "stats.json").write_text(json.dumps(stats))


def scale(values: Tensor, stats: dict[str, list[float]]) -> Tensor:
    """To mean 0 and standard deviation 1."""
    return (values - torch.tensor(stats["mean"])) / torch.tensor(stats["std"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args.folder, args.episodes, args.steps, args.seed)
