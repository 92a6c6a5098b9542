"""Somebody else's training script: a diffusion policy in plain torch and diffusers.

    python train.py policy

Writes a folder ``policy`` with ``unet/`` and ``scheduler/`` as diffusers saves them, and
``stats.json``. The UNet1DModel takes the noisy actions ``[B, 2, 16]`` and, as further channels that
are constant over the horizon, the last two observations; the second of the 16 actions is the one
for now, and 8 are played.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from crossing import FINISH, CrossingEnv
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet1DModel

HORIZON, OBS_STEPS, ACTIONS, OBSERVED = 16, 2, 2, 8
STEPS_SEEN = 72


def way_points(pillars: np.ndarray, gap: int, side: int) -> list[np.ndarray]:
    """Where to go for one of the six routes."""
    first, second = pillars[:2], pillars[2]
    xs = (first[0, 0] - 70.0, first[:, 0].mean(), first[1, 0] + 70.0)
    low = np.array([xs[gap], first[:, 1].mean()])
    high = np.array([second[0] + (70.0 if side else -70.0), second[1]])
    offsets = np.array([[0.0, -40.0], [0.0, 40.0]])
    return [*(low + offsets), *(high + offsets), np.array([high[0], FINISH + 30.0])]


def episode(env: CrossingEnv, seed: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One demonstration along a random route, with a shaky hand; failed ones are thrown away."""
    while True:
        observation, _ = env.reset(seed=seed)
        points = way_points(env.pillars, int(rng.integers(3)), int(rng.integers(2)))
        seen, actions, done, success = [observation], [], False, False
        while not done and len(actions) < STEPS_SEEN:
            while len(points) > 1 and np.linalg.norm(points[0] - env.place) < 24.0:
                points.pop(0)
            direction = points[0] - env.place
            target = env.place + 13.0 * direction / max(float(np.linalg.norm(direction)), 1e-9)
            observation, success, done, _, _ = env.step(target + rng.normal(0.0, 4.0, 2))
            seen.append(observation)
            actions.append(target)
        if success:
            keys = ("agent_pos", "environment_state")
            flat = np.stack([np.concatenate([entry[key] for key in keys]) for entry in seen])
            return {"observation": flat, "action": np.stack(actions)}
        seed += 100_000


def windows(episodes: list[dict[str, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories ``[n, 2, 8]`` and chunks ``[n, 16, 2]``, ends repeated."""
    histories, chunks = [], []
    for data in episodes:
        length = len(data["action"])
        for now in range(length):
            past = np.clip(np.arange(now - OBS_STEPS + 1, now + 1), 0, None)
            ahead = np.clip(np.arange(now - 1, now - 1 + HORIZON), 0, length - 1)
            histories.append(data["observation"][past])
            chunks.append(data["action"][ahead])
    return torch.tensor(np.stack(histories)).float(), torch.tensor(np.stack(chunks)).float()


def train(folder: Path, episodes: int, steps: int) -> None:
    """Clone the demonstrations and save the policy."""
    torch.manual_seed(0)
    rng, env = np.random.default_rng(0), CrossingEnv()
    history, chunk = windows([episode(env, seed, rng) for seed in range(episodes)])
    stats = {
        "observation": {"min": history.amin((0, 1)).tolist(), "max": history.amax((0, 1)).tolist()},
        "action": {"min": chunk.amin((0, 1)).tolist(), "max": chunk.amax((0, 1)).tolist()},
    }
    history, chunk = scale(history, stats["observation"]), scale(chunk, stats["action"])
    unet = UNet1DModel(
        sample_size=HORIZON,
        in_channels=ACTIONS + OBS_STEPS * OBSERVED,
        out_channels=ACTIONS,
        extra_in_channels=0,
        time_embedding_type="positional",
        use_timestep_embedding=True,
        freq_shift=1.0,
        flip_sin_to_cos=False,
        act_fn="mish",
        block_out_channels=(64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownResnetBlock1D", "DownResnetBlock1D"),
        up_block_types=("UpResnetBlock1D",),
        mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock",
    )
    noiser = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    optimizer = torch.optim.AdamW(unet.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        index = torch.randint(len(chunk), (256,))
        clean = chunk[index].transpose(1, 2)
        condition = history[index].flatten(1)[..., None].expand(-1, -1, HORIZON)
        noise, times = torch.randn_like(clean), torch.randint(100, (256,))
        noisy = noiser.add_noise(clean, noise, times)
        loss = (unet(torch.cat([noisy, condition], 1), times).sample - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    unet.save_pretrained(folder / "unet")
    solver = DPMSolverMultistepScheduler.from_config(noiser.config)
    solver.save_pretrained(folder / "scheduler")
    (folder / "stats.json").write_text(json.dumps(stats))


def scale(values: torch.Tensor, stats: dict[str, list[float]]) -> torch.Tensor:
    """To [-1, 1]; what never changes to 0."""
    low, high = torch.tensor(stats["min"]), torch.tensor(stats["max"])
    half = (high - low) / 2
    return (values - (low + high) / 2) / torch.where(half > 0, half, 1.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args.folder, args.episodes, args.steps)
