"""Somebody else's training script: a flow-matching transformer, plain torch.

    python train.py policy

A scripted pilot, whose hand shakes, flies through the doors in some wind. The transformer reads the
chunk of 32 actions as 8 tokens of 4 actions each, behind one token of the observation; the time is
added to all. It is trained on the straight path from noise, at t = 0, to the actions, at t = 1, and
sampled by Euler's steps. The first action is for now, and 8 are played.

Writes ``policy/checkpoint.pt``: weights, and mean and standard deviation of the observation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium
import numpy as np
import torch
from rooms import DOORS_EAST, DOORS_NORTH, ROOM, ROUTES, SPEED, RoomsEnv
from torch import Tensor, nn

HORIZON, ACTIONS, OBSERVED, PATCH = 32, 2, 8, 4
WIDTH, HEADS, LAYERS, BATCH = 96, 4, 3, 128


class VelocityTransformer(nn.Module):
    """The velocity of a chunk ``[B, 32, 2]`` at a time ``[B]``, given ``[B, 8]`` observations."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(OBSERVED))
        self.register_buffer("std", torch.ones(OBSERVED))
        self.observe = nn.Sequential(
            nn.Linear(OBSERVED, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH)
        )
        self.embed = nn.Linear(PATCH * ACTIONS, WIDTH)
        self.clock = nn.Sequential(nn.Linear(16, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.positions = nn.Parameter(0.02 * torch.randn(1 + HORIZON // PATCH, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH,
            HEADS,
            4 * WIDTH,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.body = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.read = nn.Linear(WIDTH, PATCH * ACTIONS)

    def forward(self, chunk: Tensor, time: Tensor, observation: Tensor) -> Tensor:
        """Return ``[B, 32, 2]``."""
        seen = self.observe((observation - self.mean) / self.std)[:, None]
        waves = time[:, None] * torch.pi * 2.0 ** torch.arange(8, device=time.device)
        clock = self.clock(torch.cat([waves.sin(), waves.cos()], -1))[:, None]
        patches = self.embed(chunk.reshape(len(chunk), -1, PATCH * ACTIONS))
        tokens = torch.cat([seen, patches], 1) + self.positions + clock
        return self.read(self.body(tokens)[:, 1:]).reshape(chunk.shape)


def sample(model: VelocityTransformer, noise: Tensor, observation: Tensor, steps: int) -> Tensor:
    """From noise ``[B, 32, 2]`` to commands, by Euler's steps."""
    chunk = noise
    for step in range(steps):
        time = torch.full((len(noise),), step / steps, device=noise.device)
        chunk = chunk + model(chunk, time, observation) / steps
    return chunk


def way_points(route: str, pad: np.ndarray) -> list[np.ndarray]:
    """Where to fly for one of the six routes: before and behind each door, then to the pad."""
    room, points = [0, 0], []
    for letter in route:
        axis = "EN".index(letter)
        door = (DOORS_EAST, DOORS_NORTH)[axis][room[axis]][room[1 - axis]]
        for offset in (-0.7, 0.5):
            point = np.full(2, door)
            point[axis] = (room[axis] + 1) * ROOM + offset
            points.append(point)
        room[axis] += 1
    return [*points, pad]


def episode(env: gymnasium.Env, seed: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One demonstration along a random route, at its own pace; failed ones are thrown away."""
    while True:
        observation, info = env.reset(seed=seed)
        drone: RoomsEnv = env.unwrapped
        points = way_points(ROUTES[rng.integers(6)], drone.pad)
        pace, seen, commands, done = rng.uniform(1.7, 2.2), [], [], False
        while not done:
            while len(points) > 1 and np.linalg.norm(points[0] - drone.place) < 0.4:
                points.pop(0)
            way = points[0] - drone.place
            wanted = pace * way / max(float(np.linalg.norm(way)), 1e-6)
            command = (wanted + 0.8 * (wanted - drone.velocity)) / SPEED + rng.normal(0.0, 0.1, 2)
            seen.append(observation)
            commands.append(command.clip(-1.0, 1.0))
            observation, _, terminated, truncated, info = env.step(commands[-1])
            done = terminated or truncated
        if info["success"]:
            return {"observation": np.stack(seen), "action": np.stack(commands)}
        seed += 100_000


def chunks(episodes: list[dict[str, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Observations ``[n, 8]`` and the 32 actions from there on ``[n, 32, 2]``, ends repeated."""
    ahead = []
    for data in episodes:
        index = np.arange(len(data["action"]))[:, None] + np.arange(HORIZON)
        ahead.append(data["action"][index.clip(max=len(data["action"]) - 1)])
    seen = np.concatenate([data["observation"] for data in episodes])
    return torch.tensor(seen).float(), torch.tensor(np.concatenate(ahead)).float()


def train(folder: Path, episodes: int, steps: int, seed: int) -> None:
    """Clone the demonstrations and save the policy."""
    torch.manual_seed(seed)
    rng, env = np.random.default_rng(seed), gymnasium.make("Rooms-v0", wind=0.5)
    seen, ahead = chunks([episode(env, seed * 1000 + i, rng) for i in range(episodes)])
    print(f"{episodes} demonstrations, {len(seen)} steps", flush=True)
    model = VelocityTransformer()
    model.mean.copy_(seen.mean(0))
    model.std.copy_(seen.std(0))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.05)
    for step in range(steps):
        index = torch.randint(len(seen), (BATCH,))
        actions, noise, time = ahead[index], torch.randn(BATCH, HORIZON, ACTIONS), torch.rand(BATCH)
        between = torch.lerp(noise, actions, time[:, None, None])
        loss = (model(between, time, seen[index]) - (actions - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 400 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "checkpoint.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args.folder, args.episodes, args.steps, args.seed)
