"""PI0 keeps the contract of a policy and decodes what the model's own sampler does."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from tensordict import NonTensorStack, TensorDict
from torch import Tensor
from torch.nn import functional

from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.testing import check_generative_policy
from modereg_integrations.transformers import PI0Policy, Statistics, fit_statistics

IMAGE, STATE, TOKENS = ("observation", "image"), ("observation", "state"), "language_instruction"
WRIST = ("observation", "wrist_image")


@pytest.fixture
def policy(model: Any) -> PI0Policy:
    return PI0Policy(model, action_dim=3).requires_grad_(False)


def values(policy: PI0Policy, observations: TensorDict) -> list[Tensor]:
    return [observations.get(key) for key in policy.observation_keys]


def their_sample(
    model: Any, images: list[Tensor], tokens: Tensor, state: Tensor, noise: Tensor, **options: Any
) -> Tensor:
    """Call transformers' own sampler with what its processor would make of these."""
    places = torch.full((len(tokens), 4 * len(images)), 64)
    return model.sample_actions(
        state=functional.pad(state, (0, 6 - state.shape[-1])),
        input_ids=torch.cat([places, tokens], 1),
        pixel_values=torch.stack([image.float() / 127.5 - 1.0 for image in images], 1),
        noise=noise,
        attention_mask=torch.cat([torch.ones_like(places), (tokens != 0).long()], 1),
        pixel_attention_mask=torch.ones(len(tokens), len(images), dtype=torch.bool),
        **options,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contract(model: Any, observations: TensorDict, dtype: torch.dtype) -> None:
    policy = PI0Policy(model, action_dim=3).to(dtype)
    assert policy.noise_shape == (4, 5)
    assert policy.chunk_shape == (4, 3)
    check_generative_policy(policy, observations, dtype=dtype)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("cameras", [1, 2])
def test_equals_the_sampler_of_the_model(
    model: Any, observations: TensorDict, cameras: int, steps: int
) -> None:
    observations[WRIST] = observations[IMAGE].flip(-1)
    policy = PI0Policy(model, image_keys=[IMAGE, WRIST][:cameras], num_inference_steps=steps)
    noise = policy.draw_noise([3])
    *images, tokens, state = given = values(policy, observations)
    expected = their_sample(model, images, tokens, state, noise, num_steps=steps)
    torch.testing.assert_close(policy.decode(noise, *given), expected, rtol=1e-5, atol=1e-5)
    assert (expected - noise).abs().mean() > 0.1


def test_every_observation_matters(policy: PI0Policy, observations: TensorDict) -> None:
    noise = policy.draw_noise([3])
    chunk = policy.decode_from(observations, noise)
    for key in policy.observation_keys:
        other = observations.clone()
        other[key] = other[key].flip(0)
        changed = policy.decode_from(other, noise)
        assert (changed - chunk).abs().max() > 1e-3, key


def test_padding_does_not_matter(policy: PI0Policy, observations: TensorDict) -> None:
    noise = policy.draw_noise([3])
    image, tokens, state = values(policy, observations)
    longer = policy.decode(noise, image, functional.pad(tokens, (0, 7)), state)
    torch.testing.assert_close(longer, policy.decode(noise, image, tokens, state))


def test_images_as_floats(policy: PI0Policy, observations: TensorDict) -> None:
    noise = policy.draw_noise([3])
    image, tokens, state = values(policy, observations)
    scaled = policy.decode(noise, image.float() / 127.5 - 1.0, tokens, state)
    torch.testing.assert_close(scaled, policy.decode(noise, image, tokens, state))


def test_noises_of_one_observation_share_its_prefix(
    policy: PI0Policy, observations: TensorDict
) -> None:
    calls: list[int] = []
    policy.model.model.vlm.register_forward_hook(lambda *_: calls.append(1))
    noise = policy.draw_noise([3, 2, 4])
    given = values(policy, observations)
    chunk = policy.decode(noise, *given)
    assert len(calls) == 1
    assert chunk.shape == (3, 2, 4, 4, 3)
    for first in range(2):
        for second in range(4):
            alone = policy.decode(noise[:, first, second], *given)
            torch.testing.assert_close(chunk[:, first, second], alone, rtol=1e-5, atol=1e-5)


def test_a_prefix_may_be_used_again(policy: PI0Policy, observations: TensorDict) -> None:
    prefix = policy.encode(*values(policy, observations))
    before = copy.deepcopy(prefix.layers)
    noise = policy.draw_noise([3])
    first = policy.denoise(noise, prefix)
    assert torch.equal(policy.denoise(noise, prefix), first)
    for pair, kept in zip(prefix.layers, before, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(pair, kept, strict=True))


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_batches_of_any_rank(
    policy: PI0Policy, observations: TensorDict, batch: tuple[int, ...]
) -> None:
    rows = observations[:1].expand(torch.Size(batch).numel()).reshape(batch)
    chunk = policy(rows.clone())["action_chunk"]
    assert chunk.shape == (*batch, 4, 3)


@pytest.mark.parametrize("batch", [(0,), (2, 0)])
def test_an_empty_batch_gives_an_empty_chunk(
    policy: PI0Policy, observations: TensorDict, batch: tuple[int, ...]
) -> None:
    chunk = policy(observations[:1].expand(0).reshape(batch).clone())["action_chunk"]
    assert chunk.shape == (*batch, 4, 3)


def test_gradient_in_the_noise_is_that_of_the_function(
    model: Any, observations: TensorDict
) -> None:
    """Gemma normalises in float32, whatever its type: hence the wide differences."""
    policy = PI0Policy(model, action_dim=3, num_inference_steps=2).double().requires_grad_(False)
    model.action_out_proj.weight.mul_(20)
    prefix = policy.encode(*values(policy, observations[:1]))
    noise = policy.draw_noise([1], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w: policy.denoise(w, prefix), noise, eps=1e-2, atol=1e-3, rtol=1e-2
    )


def test_noise_of_another_type_keeps_its_type(model: Any, observations: TensorDict) -> None:
    noise = torch.randn(3, 4, 5, dtype=torch.float32)
    exact = PI0Policy(model).decode_from(observations, noise)
    half = PI0Policy(model.to(torch.bfloat16)).decode_from(observations, noise)
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_statistics_are_those_of_the_processor(model: Any, observations: TensorDict) -> None:
    statistics = Statistics(
        state_mean=[0.5, 0.0, 1.0, -1.0],
        state_std=[2.0, 1.0, 0.5, 3.0],
        actions_mean=[1.0, 2.0, 3.0],
        actions_std=[0.1, 0.2, 10.0],
    )
    plain = PI0Policy(model, action_dim=3)
    noise = plain.draw_noise([3])
    image, tokens, state = values(plain, observations)
    mean, std = torch.tensor([0.5, 0.0, 1.0, -1.0]), torch.tensor([2.0, 1.0, 0.5, 3.0])
    padded = plain.decode(noise, image, tokens, (state - mean) / std)
    expected = padded * torch.tensor([0.1, 0.2, 10.0]) + torch.tensor([1.0, 2.0, 3.0])
    policy = PI0Policy(model, action_dim=3, statistics=statistics)
    chunk = policy.decode(noise, image, tokens, state)
    torch.testing.assert_close(chunk, expected, rtol=1e-5, atol=1e-5)


def test_other_keys(model: Any, observations: TensorDict) -> None:
    names = {"image_keys": [("a", "b")], "instruction_key": "words", "state_key": "joints"}
    policy = PI0Policy(model, **names, noise_key=("x", "w"), chunk_key=("x", "chunk"))
    data = TensorDict(
        {("a", "b"): observations[IMAGE], "words": observations[TOKENS]},
        [3],
    ).set("joints", observations[STATE])
    data[("x", "w")] = policy.draw_noise([3])
    expected = PI0Policy(model).decode_from(observations, data[("x", "w")])
    torch.testing.assert_close(policy(data)[("x", "chunk")], expected)


def test_fingerprint_tells_what_decides_the_chunk(model: Any) -> None:
    base = PI0Policy(model, action_dim=3)
    numbers = {"state_mean": [0.0], "state_std": [1.0]}
    actions = {"actions_mean": [0.0] * 3, "actions_std": [1.0] * 3}
    others = [
        PI0Policy(model, action_dim=2),
        PI0Policy(model, action_dim=3, num_inference_steps=7),
        PI0Policy(model, action_dim=3, image_keys=[IMAGE, WRIST]),
        PI0Policy(model, action_dim=3, statistics=Statistics(**numbers, **actions)),
    ]
    prints = [policy.fingerprint() for policy in (base, *others)]
    assert len(set(prints)) == len(prints)
    assert json.loads(json.dumps(base.configuration())) == base.configuration()
    assert PI0Policy(model, action_dim=3).fingerprint() == prints[0]
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert base.fingerprint() != prints[0]


def test_what_cannot_work_is_refused_at_construction(model: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected a PI0ForConditionalGeneration"):
        PI0Policy(torch.nn.Linear(1, 1))
    with pytest.raises(ShapeError, match=r"action_dim in \[1, 5\]"):
        PI0Policy(model, action_dim=6)
    with pytest.raises(ConfigurationError, match="at least one camera"):
        PI0Policy(model, image_keys=[])
    with pytest.raises(ConfigurationError, match="Euler steps in"):
        PI0Policy(model, num_inference_steps=10**9)
    with pytest.raises(ShapeError, match=r"state_dim in \[1, 6\]"):
        PI0Policy(model, state_dim=7)
    statistics = fit_statistics(torch.randn(8, 4, 5), torch.randn(8, 4))
    with pytest.raises(ConfigurationError, match="statistics of 3 numbers of a state"):
        PI0Policy(model, state_dim=3, statistics=statistics)
    with pytest.raises(ConfigurationError, match="Euler steps in"):
        PI0Policy(model, num_inference_steps=0)
    numbers = {"state_mean": [0.0], "state_std": [1.0], "actions_mean": [0.0], "actions_std": [1.0]}
    with pytest.raises(ConfigurationError, match="statistics of 3 action dimensions"):
        PI0Policy(model, action_dim=3, statistics=Statistics(**numbers))
    with pytest.raises(ShapeError, match="of one length"):
        Statistics(**{**numbers, "state_std": [1.0, 1.0]})
    with pytest.raises(ConfigurationError, match="no negative deviation"):
        Statistics(**{**numbers, "actions_std": [-1.0]})


def test_what_does_not_fit_is_refused(policy: PI0Policy, observations: TensorDict) -> None:
    noise = policy.draw_noise([3])
    image, tokens, state = values(policy, observations)
    with pytest.raises(ShapeError, match="expected images of shape"):
        policy.decode(noise, image.movedim(1, -1), tokens, state)
    with pytest.raises(ConfigurationError, match="expected images as uint8"):
        policy.decode(noise, image.long(), tokens, state)
    with pytest.raises(ShapeError, match="expected token ids of shape"):
        policy.decode(noise, image, tokens[:2], state)
    with pytest.raises(ConfigurationError, match="give the policy a tokenizer"):
        policy.decode(noise, image, NonTensorStack("pick", "place", "push"), state)
    with pytest.raises(ConfigurationError, match="of type int64, got torch.float32"):
        policy.decode(noise, image, tokens.float(), state)
    with pytest.raises(ConfigurationError, match="without images, got ids with 64"):
        policy.decode(noise, image, torch.full_like(tokens, 64), state)
    with pytest.raises(ShapeError, match="at most 6 numbers"):
        policy.decode(noise, image, tokens, torch.zeros(3, 7))
    with pytest.raises(ShapeError, match="expected noise of shape"):
        policy.decode(noise[..., :3], image, tokens, state)
    with pytest.raises(ShapeError, match="expected noise of shape"):
        policy.decode(noise[:2], image, tokens, state)
    with pytest.raises(ShapeError, match="expected 3 observations"):
        policy.decode(noise, image, tokens)
    with pytest.raises(KeyMismatchError, match="language_instruction"):
        policy(observations.exclude(TOKENS))


def test_states_and_chunks_of_another_width_are_refused(
    model: Any, observations: TensorDict
) -> None:
    """Zeros would fill up a state of one number, and the chunk would be one of another state."""
    policy = PI0Policy(model, action_dim=3, state_dim=4)
    noise = policy.draw_noise([3])
    policy.decode_from(observations, noise)
    narrow = observations.clone().set(STATE, torch.zeros(3, 1))
    with pytest.raises(ShapeError, match=r"expected states \[\*B, 4\]"):
        policy.decode_from(narrow, noise)
    with pytest.raises(ConfigurationError, match="statistics of 3 action dimensions"):
        policy.fit_normalizer(torch.randn(3, 4, 5), observations[STATE])
    with pytest.raises(ConfigurationError, match="statistics of 4 numbers of a state"):
        policy.fit_normalizer(torch.randn(3, 4, 3), torch.zeros(3, 1))
    assert policy.statistics is None
