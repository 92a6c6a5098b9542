from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from modereg.discovery.chunk_features import ChunkFeatures
from modereg.discovery.decoders import OBSERVED, DecoderStudent, ExactDecoder
from modereg.layout import Layout
from modereg.policies import GenerativePolicy, as_generative_policy
from modereg.testing import TinyPolicy
from modereg.transforms import NoiseAction

OBS, ROWS = 3, 500
LAYOUT = Layout(8, horizon=4, execute=2, offset=1)


def exact(
    policy: GenerativePolicy, basis: Tensor | None = None
) -> tuple[ExactDecoder, TensorDict, Tensor]:
    """Return the decoder of a policy in double precision, rows for it and noises."""
    observations = torch.randn(ROWS, OBS, dtype=torch.float64)
    rows = TensorDict({"observation": observations, OBSERVED: observations}, [ROWS])
    noise = torch.randn(ROWS, *policy.noise_shape, dtype=torch.float64)
    played = policy.decode_from(rows, noise)[:, 1:3].detach()
    features = ChunkFeatures(observations, played)
    return ExactDecoder(policy, LAYOUT, features, NoiseAction(policy, basis).lift), rows, noise


def test_features_are_those_of_the_played_actions() -> None:
    policy = TinyPolicy(OBS, dtype=torch.float64)
    decode, rows, noise = exact(policy)
    chunks = policy.decode_from(rows, noise)
    expected = decode.features(rows[OBSERVED], chunks[:, 1:3])
    torch.testing.assert_close(decode(rows, noise), expected)


def test_the_gradient_is_that_of_finite_differences() -> None:
    decode, rows, noise = exact(TinyPolicy(OBS, dtype=torch.float64))
    assert decode.differentiable(rows, noise)
    rows, noise = rows[:3], noise[:3].requires_grad_()
    assert torch.autograd.gradcheck(lambda action: decode(rows, action), [noise])
    assert decode.gradient_seconds(rows, noise) > 0


def test_a_decoder_without_gradients_says_so() -> None:
    def detached(noise: Tensor, observation: Tensor) -> Tensor:
        return noise.detach() + observation[..., None, :2]

    shape = (4, 2)
    policy = as_generative_policy(
        detached, in_keys=["observation"], noise_shape=shape, chunk_shape=shape
    )
    decode, rows, noise = exact(policy)
    assert not decode.differentiable(rows, noise)


def test_coordinates_are_lifted_and_the_rest_stays_noise() -> None:
    policy = TinyPolicy(OBS, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(8, 2, dtype=torch.float64))[0]
    decode, rows, _ = exact(policy, basis)
    coordinates = torch.randn(ROWS, 2, dtype=torch.float64).requires_grad_()
    first, second = decode(rows, coordinates), decode(rows, coordinates)
    assert not torch.equal(first, second)
    (gradient,) = torch.autograd.grad(first.sum(), coordinates)
    assert bool((gradient != 0).all())


def pairs(num: int = 4000) -> tuple[Tensor, Tensor, Tensor]:
    """Return observations, noises and two whitened features, linear in both."""
    observations, noise = torch.randn(num, OBS), torch.randn(num, 4, 2)
    inputs = torch.cat([observations, noise.flatten(1)], -1)
    features = inputs @ torch.randn(inputs.shape[-1], 2)
    return observations, noise, features / features.std(0)


def test_a_student_learns_a_linear_decoder_and_its_gradient() -> None:
    observations, noise, features = pairs()
    student = DecoderStudent(observations, 8, 2, width=64, octaves=1)
    assert student.fit(observations, noise, features, 400) > 0.97
    fresh = noise[:200].clone().requires_grad_()
    (found,) = torch.autograd.grad(student(observations[:200], fresh)[:, 0].sum(), fresh)
    solution = torch.linalg.lstsq(torch.cat([observations, noise.flatten(1)], -1), features)
    expected = solution.solution[OBS:, 0]
    cosine = torch.cosine_similarity(found.flatten(1), expected.expand(200, -1))
    assert float(cosine.mean()) > 0.95
    assert not any(parameter.requires_grad for parameter in student.parameters())


def test_the_explained_share_is_held_out() -> None:
    observations, noise, features = pairs(100)
    student = DecoderStudent(observations, 8, 2)
    noisy = torch.randn_like(features)  # which can only be learned by heart
    assert student.fit(observations, noise, noisy, 200) < 0.2


def test_a_student_reads_rows_or_observations() -> None:
    observations, noise, _ = pairs(10)
    student = DecoderStudent(observations, 8, 2)
    rows = TensorDict({OBSERVED: observations}, [10])
    assert torch.equal(student(rows, noise), student(observations, noise))


@pytest.mark.parametrize("shape", [(4, 2), (8,)])
def test_a_noise_may_have_any_shape(shape: tuple[int, ...]) -> None:
    observations, noise, _ = pairs(10)
    student = DecoderStudent(observations, 8, 2)
    assert student(observations, noise.reshape(10, *shape)).shape == (10, 2)
