"""Cloning trains by the model's own loss, and leads to a policy that does what was shown."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from modereg import plugins
from modereg.errors import ConfigurationError, ShapeError
from modereg.recipes.config import LogConfig, PretrainConfig, TaskConfig
from modereg.recipes.follow import pretrain
from modereg.recipes.pretrain import chunks_of
from modereg.tasks.visual import visual_avoid_task
from modereg_integrations.transformers import (
    PI0Policy,
    fit_statistics,
    flow_matching_loss,
    fresh_model,
)

QUIET = LogConfig(tensorboard=False, progress=False)


@pytest.fixture(scope="module")
def shown() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    task = visual_avoid_task()
    return chunks_of(task.demonstrate(12, 0), task)


def fresh(observations: list[torch.Tensor], chunk: torch.Tensor) -> PI0Policy:
    torch.manual_seed(0)
    shapes = [tuple(value.shape[1:]) for value in observations]
    return PI0Policy.untrained(
        observation_shapes=dict(zip(visual_avoid_task().observation_keys, shapes, strict=True)),
        chunk_shape=tuple(chunk.shape[1:]),
        vocabulary=16,
    )


def test_the_loss_is_that_of_the_models_forward(model: Any, observations: TensorDict) -> None:
    policy = PI0Policy(model)  # every action dimension is a true one
    given = [observations.get(key) for key in policy.observation_keys]
    chunk = torch.randn(3, 4, 5)
    torch.manual_seed(1)
    ours = flow_matching_loss(policy, chunk, *given)
    torch.manual_seed(1)
    noise = torch.randn(3, 4, 5)
    theirs = model(**policy.model_inputs(*given), noise=noise, actions=chunk).loss
    torch.testing.assert_close(ours, theirs)


def test_what_pads_does_not_count(model: Any, observations: TensorDict) -> None:
    policy = PI0Policy(model, action_dim=3)
    given = [observations.get(key) for key in policy.observation_keys]
    chunk, mask = torch.randn(3, 4, 3), torch.ones(3, 4, dtype=torch.bool)
    mask[0, 2:], mask[2, 1:] = False, False
    weight = policy.model.action_out_proj.weight

    def gradient(kept: torch.Tensor | None) -> torch.Tensor:
        torch.manual_seed(2)
        loss = policy.cloning_loss(chunk, *given, mask=kept)
        return torch.autograd.grad(loss, weight)[0]

    assert bool((gradient(mask)[3:] == 0).all())  # the two dimensions that pad actions
    assert bool((gradient(mask)[:3] != 0).any())
    assert not torch.allclose(gradient(mask), gradient(None))
    with pytest.raises(ShapeError, match=r"\[\*B, 4, 3\]"):
        policy.cloning_loss(torch.randn(3, 4, 5), *given)


def test_statistics_of_what_was_shown() -> None:
    chunk, state = torch.randn(500, 4, 2) * 3 + 1, torch.randn(500, 3)
    state[:, 2] = 7.0
    mask = torch.rand(500, 4) < 0.5
    statistics = fit_statistics(chunk.masked_fill(~mask[..., None], 0.0), state, mask)
    units = statistics.normalize_actions(chunk[mask])
    torch.testing.assert_close(units.std(0), torch.ones(2))
    assert units.mean(0).abs().max() < 1e-5
    torch.testing.assert_close(statistics.denormalize_actions(units), chunk[mask])
    assert bool((statistics.normalize_state(state)[:, 2] == 0).all())


def test_a_policy_takes_statistics_of_what_was_done(
    shown: tuple[list[torch.Tensor], torch.Tensor, torch.Tensor],
) -> None:
    observations, chunk, mask = shown
    policy = fresh(observations, chunk)
    policy.fit_normalizer(chunk, *observations, mask=mask)
    assert policy.statistics is not None
    kept = fit_statistics(chunk, observations[-1], mask)
    assert torch.equal(policy.statistics.actions_mean, kept.actions_mean)
    padded = fit_statistics(chunk, observations[-1])
    assert not torch.equal(padded.actions_mean, kept.actions_mean)


def test_cloning_learns_and_leaves_what_is_frozen(
    shown: tuple[list[torch.Tensor], torch.Tensor, torch.Tensor],
) -> None:
    observations, chunk, mask = shown
    policy = fresh(observations, chunk)
    policy.fit_normalizer(chunk, *observations)
    policy.model.model.vlm.requires_grad_(False)
    frozen = [weight.clone() for weight in policy.model.model.vlm.parameters()]
    optimizer = torch.optim.Adam((w for w in policy.parameters() if w.requires_grad), 3e-3)
    losses: list[float] = []
    for _ in range(60):
        index = torch.randint(len(chunk), (32,))
        seen = [value[index] for value in observations]
        loss = policy.cloning_loss(chunk[index], *seen, mask=mask[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.92 * sum(losses[:10])
    after = policy.model.model.vlm.parameters()
    assert all(torch.equal(one, other) for one, other in zip(frozen, after, strict=True))


def test_from_the_command_lines_recipe(tmp_path: Path) -> None:
    config = PretrainConfig(
        out=tmp_path / "base",
        task=TaskConfig("task:visual_avoid"),
        library="transformers",
        method="flow",
        episodes=6,
        hidden=(32,),
        steps=2,
        batch=4,
        inference_steps=2,
        log=QUIET,
    )
    summary = pretrain(config)
    policy = PI0Policy.from_pretrained(summary["policy"])
    assert policy.num_inference_steps == 2
    assert policy.chunk_shape == policy.noise_shape == (6, 2)
    assert policy.observation_keys == list(visual_avoid_task().observation_keys)
    assert policy.statistics is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"library": "transformers"}, "expected method 'flow', which PI0 is"),
        ({"library": "foreign"}, "'foreign' makes no fresh ones to clone"),
        ({"library": "transformers", "method": "flow", "hidden": (32, 64)}, "of one width"),
    ],
)
def test_what_cannot_be_cloned_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaders = {"transformers": "transformers.plugin:PLUGIN", "foreign": "lerobot.plugin:PLUGIN"}
    points = [
        EntryPoint(name, f"modereg_integrations.{value}", plugins.POLICY_GROUP)
        for name, value in loaders.items()
    ]
    monkeypatch.setattr(plugins, "_entry_points", lambda _: {p.name: p for p in points})
    config = PretrainConfig(
        out=tmp_path, task=TaskConfig("task:visual_avoid"), episodes=6, log=QUIET, **options
    )
    with pytest.raises(ConfigurationError, match=message):
        pretrain(config)


def test_impossible_sizes_are_refused() -> None:
    sizes = {"state_dim": 2, "chunk_shape": (4, 2)}
    with pytest.raises(ConfigurationError, match="a multiple of 2 patches, got 27"):
        fresh_model(image_size=27, **sizes)
    with pytest.raises(ConfigurationError, match=r"a multiple of 32 such as \(32, 32\), got"):
        fresh_model(image_size=28, hidden=(48,), **sizes)
    with pytest.raises(ConfigurationError, match="in the order images"):
        PI0Policy.untrained(observation_shapes={"state": (2,)}, chunk_shape=(4, 2))
