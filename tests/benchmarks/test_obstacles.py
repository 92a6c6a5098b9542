"""The obstacle of the benchmark of DDiffPG stops the point of its row, and nothing else."""

from __future__ import annotations

import torch

from benchmarks.support.obstacles import ObstructedMixture


def test_the_point_stops_at_its_disc_and_gets_round_it() -> None:
    discs = torch.tensor([[0.4, 0.0], [-0.4, 0.0]])
    env = ObstructedMixture(discs, 0.12, start_noise=0.0, max_steps=40)
    root = env.reset()
    right = torch.tensor([[0.05, 0.0]]).expand(2, -1)
    for _ in range(12):
        root = env.step_mdp(env.step(root.set("action", right)))
    place = root["observation"]
    assert 0.2 < float(place[0, 0]) <= 0.28
    assert float(place[1, 0]) > 0.55, "the other row's disc is elsewhere"
    up = torch.tensor([[0.0, 0.05]]).expand(2, -1)
    root = env.step_mdp(env.step(root.set("action", up)))
    assert float(root["observation"][0, 1]) > 0.04
    assert not bool(root["success"].any())
