from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from modereg.discovery.release import release
from modereg.wrapping import make_steering
from tests.discovery.roads import CODES, NESTED, wrapped


@pytest.mark.parametrize("nested", [False, True])
def test_codes_that_were_held_may_learn_and_all_begin_where_they_were(nested: bool) -> None:
    env = wrapped(**({"entries": NESTED} if nested else {})).env
    steering = make_steering(env, env.transform[1].policy, CODES, hidden=(64, 64))
    rows = env.rollout(3).reshape(-1).select(*steering.observation_keys)
    for parameter in steering.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    steering.head.steer_only(torch.tensor([True, False, True, False]), 0.4)
    codes = torch.arange(len(rows)) % CODES
    judged = TensorDict(dict(rows.items()), rows.batch_size)
    judged.set("latent_features", torch.nn.functional.one_hot(codes, CODES).float())
    before = steering.distribution(judged)

    error = release(steering, rows, steps=600, batch_size=256)

    after = steering.distribution(judged)
    assert error < 0.1
    assert torch.equal(after.stddev, before.stddev)
    moved = (after.mean - before.mean).detach()
    assert float(moved.square().mean().sqrt()) < 0.15
    assert float(before.mean.detach()[codes == 0].abs().mean()) > 0.4
    after.mean[codes == 1].sum().backward()
    assert all(
        parameter.grad is not None and bool(parameter.grad.any())
        for parameter in steering.head.network.parameters()
    )
