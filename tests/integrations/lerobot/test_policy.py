"""Policies of LeRobot keep the contract and decode what LeRobot's own calls return."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lerobot.policies.utils import populate_queues
from tensordict import NonTensorStack, TensorDict
from torch import Tensor

from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.policies import probe_policy
from modereg.testing import check_generative_policy
from modereg_integrations.lerobot import LeRobotPolicy

KINDS = ["diffusion", "diffusion of images", "smolvla", "pi0"]
FLOWS = ["smolvla", "pi0"]
TASK = "language_instruction"

Make = Callable[..., tuple[tuple[Any, Any, Any], TensorDict]]


def close(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def their_batch(made: tuple[Any, Any, Any], data: TensorDict, **options: Any) -> dict[str, Any]:
    """Return what LeRobot's preprocessor makes of observations, under LeRobot's names."""
    policy, preprocessor, _ = made
    batch = {}
    for name, feature in policy.config.input_features.items():
        value = data[tuple(name.split("."))]
        batch[name] = value / 255 if feature.type.name == "VISUAL" else value
    if policy.config.type != "diffusion":
        batch["task"] = list(data[TASK])
    return preprocessor(batch | options)


def their_chunk(made: tuple[Any, Any, Any], data: TensorDict, noise: Tensor) -> Tensor:
    """Return the chunk of LeRobot's own calls, step by step where it keeps a queue."""
    policy, _, postprocessor = made
    policy.reset()
    if policy.config.type != "diffusion":
        return postprocessor(policy.predict_action_chunk(their_batch(made, data), noise=noise))
    steps = [data]
    if policy.config.n_obs_steps > 1:
        steps = [data.apply(lambda value, step=step: value[:, step]) for step in range(2)]
        earlier = their_batch(made, steps[0])
        policy._queues = populate_queues(policy._queues, earlier, exclude_keys=["action"])
    actions = [
        postprocessor(policy.select_action(their_batch(made, steps[-1]), noise=noise))
        for _ in range(policy.config.n_action_steps)
    ]
    return torch.stack(actions, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_contract(make: Make, kind: str) -> None:
    made, data = make(kind)
    policy = LeRobotPolicy(*made)
    assert policy.noise_shape == ((8, 3) if "diffusion" in kind else (6, 5))
    assert policy.chunk_shape == ((4, 3) if "diffusion" in kind else (6, 3))
    check_generative_policy(policy, data)
    check_generative_policy(policy.requires_grad_(False), data, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_their_own_calls(make: Make, kind: str) -> None:
    made, data = make(kind)
    policy = LeRobotPolicy(*made).requires_grad_(False)
    noise = policy.draw_noise([3])
    if kind == "diffusion":
        data = data.exclude(TASK, ("observation", "images"))
    chunk = policy.decode_from(data, noise)
    close(chunk, their_chunk(made, data, noise))
    assert chunk.std(0).min() > 1e-4, "the rows differ"


def test_equals_the_actions_that_smolvla_selects(make: Make) -> None:
    made, data = make("smolvla")
    policy = LeRobotPolicy(*made).requires_grad_(False)
    noise = policy.draw_noise([3])
    chunk = policy.decode_from(data, noise)
    for step in range(made[0].config.n_action_steps):
        action = made[0].select_action(their_batch(made, data), noise=noise)
        close(chunk[:, step], made[2](action))


@pytest.mark.parametrize("kind", KINDS)
def test_every_observation_matters(make: Make, kind: str) -> None:
    made, data = make(kind)
    policy = LeRobotPolicy(*made).requires_grad_(False)
    noise = policy.draw_noise([3])
    chunk = policy.decode_from(data, noise)
    for key in policy.observation_keys:
        other = data.clone()
        other[key] = NonTensorStack(*data[key][::-1]) if key == TASK else data[key].flip(0)
        assert (policy.decode_from(other, noise) - chunk).abs().max() > 1e-4, key


@pytest.mark.parametrize("kind", KINDS)
def test_noises_of_one_observation_share_what_it_costs(make: Make, kind: str) -> None:
    made, data = make(kind)
    policy = LeRobotPolicy(*made).requires_grad_(False)
    encoder = {
        "smolvla": lambda model: model.model.vlm_with_expert.get_vlm_model().vision_model,
        "pi0": lambda model: model.model.paligemma_with_expert.paligemma.model.vision_tower,
        "diffusion of images": lambda model: model.diffusion.rgb_encoder[0],
        "diffusion": lambda model: model,
    }[kind](made[0])
    rows: list[int] = []
    encoder.register_forward_pre_hook(lambda _, given, named: rows.append(1), with_kwargs=True)
    noise = policy.draw_noise([3, 2, 2])
    chunk = policy.decode(noise, *[data.get(key) for key in policy.observation_keys])
    assert len(rows) == {"diffusion": 0, "diffusion of images": 1}.get(kind, 2)  # cameras
    assert chunk.shape == (3, 2, 2, *policy.chunk_shape)
    for first in range(2):
        for second in range(2):
            close(chunk[:, first, second], policy.decode_from(data, noise[:, first, second]))


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("kind", ["diffusion", "pi0"])
def test_batches_of_any_rank(make: Make, kind: str, batch: tuple[int, ...]) -> None:
    made, data = make(kind)
    options = {} if kind == "diffusion" else {"task": "pick the cube"}
    policy = LeRobotPolicy(*made, **options).requires_grad_(False)
    rows = data.exclude(TASK)[:1].expand(torch.Size(batch).numel()).reshape(batch)
    noise = policy.draw_noise(batch)
    chunk = policy.decode_from(rows, noise)
    assert chunk.shape == (*batch, *policy.chunk_shape)
    flat = policy.decode_from(rows.reshape(-1), noise.reshape(-1, *policy.noise_shape))
    close(chunk.reshape(flat.shape), flat)


@pytest.mark.parametrize("kind", ["diffusion", *FLOWS])
def test_gradient_in_the_noise_is_that_of_the_function(make: Make, kind: str) -> None:
    smooth = {"prediction_type": "sample", "clip_sample": False} if kind == "diffusion" else {}
    made, data = make(kind, **smooth)
    policy = LeRobotPolicy(*made).requires_grad_(False)
    noise, direction = policy.draw_noise([3]), policy.draw_noise([3])
    probe = torch.randn(3, *policy.chunk_shape, dtype=torch.float64)
    given = [data.get(key) for key in policy.observation_keys]

    def height(noise: Tensor) -> Tensor:
        return (probe * policy.decode(noise, *given)).sum()

    leaf = noise.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(height(leaf), leaf)
    slope = (height(noise + 1e-2 * direction) - height(noise - 1e-2 * direction)) / 2e-2
    along = (gradient * direction).sum().double()
    torch.testing.assert_close(along, slope, rtol=2e-2, atol=2e-3)
    assert slope.abs() > 2e-2


@pytest.mark.parametrize("kind", FLOWS)
def test_one_task_for_every_observation(make: Make, kind: str) -> None:
    made, data = make(kind)
    policy = LeRobotPolicy(*made, task="pick the red cube").requires_grad_(False)
    assert TASK not in policy.observation_keys
    noise = policy.draw_noise([3])
    data[TASK] = NonTensorStack(*["pick the red cube"] * 3)
    close(policy.decode_from(data.exclude(TASK), noise), their_chunk(made, data, noise))


def test_actions_relative_to_the_state(make: Make) -> None:
    made, data = make("pi0", use_relative_actions=True)
    policy = LeRobotPolicy(*made).requires_grad_(False)
    noise = policy.draw_noise([3, 2])
    given = [data.get(key) for key in policy.observation_keys]
    chunk = policy.decode(noise, *given)
    for number in range(2):
        close(chunk[:, number], their_chunk(made, data, noise[:, number]))
    plain, _ = make("pi0")
    absolute = LeRobotPolicy(*plain).requires_grad_(False).decode(noise, *given)
    close((chunk - absolute)[:, 0, 0], data["observation", "state"][:, :3])


@pytest.mark.parametrize("kind", FLOWS)
def test_images_of_another_size_are_resized_by_the_policy(make: Make, kind: str) -> None:
    made, data = make(kind)
    for name in ("top", "wrist"):
        data["observation", "images", name] = torch.randint(
            0, 256, (3, 3, 40, 60), dtype=torch.uint8
        )
    policy = LeRobotPolicy(*made).requires_grad_(False)
    noise = policy.draw_noise([3])
    close(policy.decode_from(data, noise), their_chunk(made, data, noise))


def test_an_empty_camera_is_left_to_the_policy(make: Make) -> None:
    made, data = make("smolvla", empty_cameras=1)
    policy = LeRobotPolicy(*made).requires_grad_(False)
    assert len(policy.observation_keys) == 4
    noise = policy.draw_noise([3])
    made[0].config.input_features.pop("observation.images.empty_camera_0")
    full = their_batch(made, data)
    made[0].config.validate_features()
    close(policy.decode_from(data, noise), made[2](made[0].predict_action_chunk(full, noise=noise)))


def test_other_keys(make: Make) -> None:
    made, data = make("pi0")
    noise = torch.randn(3, 6, 5)
    expected = LeRobotPolicy(*made).decode_from(data, noise)
    entries = {"observation.state": "joints", "task": ("words", "now")}
    policy = LeRobotPolicy(*made, entries=entries, noise_key=("x", "w"), chunk_key=("x", "chunk"))
    data["joints"] = data["observation"].pop("state")
    data["words"] = TensorDict({"now": data.pop(TASK)}, [3])
    data["x"] = TensorDict({"w": noise}, [3])
    close(policy(data)["x", "chunk"], expected)


@pytest.mark.parametrize("kind", ["diffusion", "smolvla"])
def test_copies_and_pickles_decode_alike(make: Make, kind: str) -> None:
    made, data = make(kind)
    policy = LeRobotPolicy(*made).requires_grad_(False)
    noise = policy.draw_noise([3])
    expected = policy.decode_from(data, noise)
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert torch.equal(other.decode_from(data, noise), expected)


def test_fingerprint_tells_what_decides_the_chunk(make: Make) -> None:
    made, _ = make("diffusion")
    base = LeRobotPolicy(*made)
    other_steps, _ = make("diffusion", num_inference_steps=5)
    other_statistics = copy.deepcopy(made)
    other_statistics[1].steps[-1]._tensor_stats["observation.state"]["max"] += 1
    flow, _ = make("pi0")
    others = [
        LeRobotPolicy(*other_steps),
        LeRobotPolicy(*other_statistics),
        LeRobotPolicy(*flow),
        LeRobotPolicy(*flow, task="pick"),
        LeRobotPolicy(*flow, task="place"),
    ]
    prints = [policy.fingerprint() for policy in (base, *others)]
    assert len(set(prints)) == len(prints)
    assert json.loads(json.dumps(base.configuration())) == base.configuration()
    again, _ = make("diffusion", optimizer_lr=1.0, push_to_hub=False)
    assert LeRobotPolicy(*again).fingerprint() == prints[0]
    with torch.no_grad():
        next(made[0].parameters()).add_(1e-3)
    assert base.fingerprint() != prints[0]


def test_what_does_not_fit_is_refused(make: Make) -> None:
    made, data = make("smolvla")
    policy = LeRobotPolicy(*made).requires_grad_(False)
    noise = policy.draw_noise([3])
    state, top, wrist, task = (data.get(key) for key in policy.observation_keys)
    with pytest.raises(ShapeError, match=r"noise of shape \[\*\(3,\), ..., 6, 5\]"):
        policy.decode(noise[..., :3], state, top, wrist, task)
    with pytest.raises(ShapeError, match="expected noise of shape"):
        policy.decode(noise[:2], state, top, wrist, task)
    with pytest.raises(ShapeError, match="expected 4 observations"):
        policy.decode(noise, state, top, wrist)
    with pytest.raises(ShapeError, match="observations of one batch"):
        policy.decode(noise, state, top[:2], wrist, task)
    with pytest.raises(ConfigurationError, match="the task in words, got Tensor"):
        policy.decode(noise, state, top, wrist, torch.zeros(3))
    with pytest.raises(KeyMismatchError, match=TASK):
        policy(data.exclude(TASK))
    with pytest.raises(ConfigurationError, match="entries for inputs of the policy, which are"):
        LeRobotPolicy(*made, entries={"observation.images.side": "side"})
    with pytest.raises(ConfigurationError, match="expected no task for a policy that reads none"):
        LeRobotPolicy(*make("diffusion")[0], task="pick")


def test_dropout_and_random_crops_are_off(make: Make) -> None:
    made, data = make("diffusion of images", crop_shape=(48, 48))
    policy = LeRobotPolicy(made[0].train(), *made[1:])
    assert not made[0].training
    probe_policy(policy, data)
