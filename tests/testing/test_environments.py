"""The tiny environments."""

from __future__ import annotations

import torch

from modereg.testing import CountingEnv


def test_the_counting_environment_poisons_what_comes_after_the_end():
    env = CountingEnv([1, 3])
    td = env.step(env.rand_action(env.reset()))
    after = env.step(env.rand_action(td["next"].exclude("reward")))["next"]
    assert torch.isnan(after["observation"][0]).all()
    assert torch.isnan(after["reward"][0]).all()
    assert torch.isfinite(after["observation"][1]).all()
