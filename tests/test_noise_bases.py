"""Subspaces of the noise: exact where the decoder is linear, and blind to what is not played."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor

from modereg.errors import ConfigurationError, KeyMismatchError, NonFiniteError, ShapeError
from modereg.layout import Layout
from modereg.noise_bases import cosine_basis, gradient_basis, repeated_basis, response_basis
from modereg.policies import GenerativePolicy
from modereg.tasks import GaussianMixture
from modereg.transforms import NoiseAction
from modereg.wrapping import wrap

LAYOUT = Layout(12, execute=2, offset=1)
WAYS = ("gradient", "differences", "rounded")


class Linear(GenerativePolicy):
    """Chunks ``M w + o``, differentiable, cut off from the graph, or rounded to hundredths."""

    def __init__(
        self,
        matrix: Tensor,
        chunk: Sequence[int],
        noise: Sequence[int] | None = None,
        *,
        way: str = "gradient",
        reads: NestedKey = "observation",
    ) -> None:
        super().__init__(
            observation_keys=[reads], noise_shape=noise or [matrix.shape[1]], chunk_shape=chunk
        )
        self.matrix = torch.nn.Parameter(matrix, requires_grad=False)
        self.way = way

    def decode(self, noise: Tensor, *observations: Tensor) -> Tensor:
        flat = noise.flatten(-len(self.noise_shape))
        chunk = flat @ self.matrix.mT + observations[0].flatten(1).mean(-1, keepdim=True)
        if self.way == "differences":
            chunk = chunk.detach()
        elif self.way == "rounded":
            chunk = (100 * chunk).round() / 100
        return chunk.unflatten(-1, tuple(self.chunk_shape)).to(noise.dtype)


class Gated(Linear):
    """Responds to one direction everywhere, and to another a thousandfold where o > 0."""

    def decode(self, noise: Tensor, *observations: Tensor) -> Tensor:
        gate = (observations[0][..., :1] > 0).to(noise)
        usual, rare = noise @ self.matrix[:1].mT, noise @ self.matrix[1:2].mT
        return (usual * (1 - gate) + 1000 * rare * gate).unflatten(-1, tuple(self.chunk_shape))


def states(number: int = 64, key: NestedKey = "observation", **options: Any) -> TensorDict:
    """Return observations ``[number, 3]``."""
    return TensorDict({key: torch.randn(number, 3, **options)}, [number])


def low_rank(out: int, size: int, values: Sequence[float], **options: Any) -> tuple[Tensor, Tensor]:
    """Return a matrix with these singular values, and its right singular vectors."""
    left = torch.linalg.qr(torch.randn(out, len(values), dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(size, len(values), dtype=torch.float64)).Q
    return (left * torch.tensor(values)) @ right.mT.to(torch.float64), right


def spans(basis: Tensor, directions: Tensor, tolerance: float = 1e-4) -> bool:
    """Return whether orthonormal columns span the same subspace."""
    overlap = torch.linalg.svdvals(basis.double().mT @ directions.double())
    return basis.shape == directions.shape and bool((overlap > 1 - tolerance).all())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_linear_decoder_reads_is_found(way: str, dtype: torch.dtype) -> None:
    matrix, right = low_rank(8, 10, [3.0, 2.0, 1.0])
    policy = Linear(matrix.to(dtype), (4, 2), (5, 2), way=way)
    options: dict[str, Any] = {"rank": 3} if way == "rounded" else {"share": 1.0}
    found = response_basis(policy, states(dtype=dtype), Layout(12), **options)
    assert found.basis.dtype is dtype
    assert spans(found.basis, right, 1e-2 if way == "rounded" else 1e-5)
    NoiseAction(policy, found.basis)  # orthonormal, and of the noise's size
    for value, expected in zip(found.shares[:3], (9 / 14, 4 / 14, 1 / 14), strict=True):
        assert float(value) == pytest.approx(expected, abs=0.12)


@pytest.mark.parametrize(
    ("options", "rank"),
    [
        ({}, 3),
        ({"share": 0.5}, 1),
        ({"share": 0.75}, 2),
        ({"share": 1.0}, 4),
        ({"most": 2}, 2),
        ({"share": 1.0, "most": 20}, 4),
        ({"rank": 6}, 6),
    ],
)
def test_the_spectrum_chooses_the_rank(options: dict[str, Any], rank: int) -> None:
    often = torch.tensor([6, 3, 2, 1, 0, 0])  # of 12 rows: .5, .75, .917 and all of the spectrum
    found = gradient_basis(torch.eye(6).double().repeat_interleave(often, 0), **options)
    assert found.basis.shape == (6, rank)
    assert found.shares.tolist() == pytest.approx([0.5, 0.25, 1 / 6, 1 / 12, 0.0, 0.0])
    assert found.share == pytest.approx(float(found.shares[:rank].sum()))


def test_a_few_huge_rows_do_not_decide() -> None:
    usual = torch.zeros(95, 4)
    usual[:, 0] = 1.0
    huge = torch.zeros(5, 4)
    huge[:, 1] = 1000.0
    found = gradient_basis(torch.cat([usual, huge]), share=0.9)
    assert found.shares.tolist() == pytest.approx([0.95, 0.05, 0.0, 0.0])
    assert found.basis.abs().tolist() == [[1.0], [0.0], [0.0], [0.0]]
    padded = torch.cat([usual, huge, torch.zeros(10_000, 4)])  # rows of zeros say nothing
    assert torch.equal(gradient_basis(padded).basis, found.basis)


def test_a_few_states_near_a_jump_do_not_decide() -> None:
    policy = Gated(torch.eye(6)[:2], (1, 1))
    data = states(100)
    data["observation"][:, 0] = -1.0
    data["observation"][:5, 0] = 1.0
    found = response_basis(policy, data, Layout(5), states=100)
    assert found.basis.abs().tolist() == [[1.0]] + [[0.0]] * 5
    assert found.share == pytest.approx(0.95)


@pytest.mark.parametrize("way", ["gradient", "differences"])
def test_a_rotation_of_the_noise_rotates_the_basis(way: str) -> None:
    matrix, _ = low_rank(8, 10, [3.0, 2.0, 1.0, 0.5])
    rotation = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64)).Q
    data = states(dtype=torch.float64)
    found = [
        response_basis(Linear(one, (4, 2), way=way), data, LAYOUT, rank=2, probes=10)
        for one in (matrix, matrix @ rotation.mT)
    ]
    assert spans(rotation @ found[0].basis, found[1].basis, 1e-6)
    torch.testing.assert_close(found[0].shares, found[1].shares)


@pytest.mark.parametrize("way", ["gradient", "differences"])
def test_actions_that_are_not_played_have_no_influence(way: str) -> None:
    matrix = 0.0 * torch.randn(8, 10)
    matrix[2:6, :4] = torch.randn(4, 4)  # actions 1 and 2 of 4, two dimensions each
    matrix[[0, 1, 6, 7], 6:] = 100 * torch.randn(4, 4)
    played = response_basis(Linear(matrix, (4, 2), way=way), states(), LAYOUT, share=1.0)
    assert spans(played.basis, torch.eye(10)[:, :4], 1e-5)
    whole = response_basis(Linear(matrix, (4, 2), way=way), states(), Layout(12), rank=4)
    assert spans(whole.basis, torch.eye(10)[:, 6:], 1e-2)


@pytest.mark.parametrize("way", ["gradient", "differences"])
def test_of_many_dimensions_some_are_probed(way: str) -> None:
    """Neither all 40 actions nor all 60 dimensions are, and the spectrum is still the decoder's."""
    matrix, right = low_rank(40, 60, [2.0, 2.0, 2.0])
    data = states(256, dtype=torch.float64)
    policy = Linear(matrix, (20, 2), way=way)
    found = response_basis(policy, data, Layout(20), states=256, probes=20)
    assert spans(found.basis[:, :3], right, 0.02)
    assert float(found.shares[:3].sum()) > (0.99 if way == "gradient" else 0.75)


def test_one_probe_of_the_noise_has_the_floor_that_is_taken_off() -> None:
    matrix, right = low_rank(3, 8, [1.0])
    data = states(4096, dtype=torch.float64)
    policy = Linear(matrix, (3, 1), way="differences")
    found = response_basis(policy, data, Layout(3), states=4096, probes=1)
    assert spans(found.basis[:, :1], right, 0.02)
    assert float(found.shares[0]) > 0.6  # with the floor it is 3 of 10


@pytest.mark.parametrize("way", ["gradient", "differences"])
@pytest.mark.parametrize("key", [("agent", "pixels"), "state"])
def test_images_and_nested_observations(key: NestedKey, way: str) -> None:
    matrix, right = low_rank(4, 6, [1.0, 1.0])
    images = torch.randint(256, (10, 3, 5, 5), dtype=torch.uint8).float()
    data = TensorDict({key: images, "unread": torch.zeros(10, 2)}, [10])
    policy = Linear(matrix.float(), (2, 2), (3, 2), way=way, reads=key)
    before = data.clone()
    found = response_basis(policy, data.reshape(5, 2), Layout(4), share=1.0)
    assert spans(found.basis, right)
    assert bool((data == before).all())
    with pytest.raises(KeyMismatchError, match="unread|lacks"):
        response_basis(policy, data.select("unread"), Layout(4))


def test_it_is_the_same_for_the_same_generator_and_leaves_the_policy_alone() -> None:
    policy = Linear(torch.randn(8, 10), (4, 2)).requires_grad_(True)
    data, found = states(200), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(response_basis(policy, data, LAYOUT, states=8, probes=3).basis)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert policy.matrix.grad is None


def test_the_rest_of_the_noise_stays_standard_normal() -> None:
    """Steered to the mean 2 in the basis, all else of the noise is N(0, I)."""
    matrix, _ = low_rank(8, 8, [2.0, 1.0])
    policy = Linear(matrix.float(), (4, 2), (4, 2))
    found = response_basis(policy, states(), Layout(24), share=1.0)
    layout = Layout(24, execute=4, noise_basis=found.basis)
    env, steering, _ = wrap(GaussianMixture(4000), policy, layout, 2)
    assert steering.noise_shape == (2,)
    td = env.reset()
    action = torch.full((4000, 2), 2.0)
    noise = env.step(td.set("action", action))["next", "noise"].flatten(1)
    torch.testing.assert_close(noise @ found.basis, action, atol=1e-4, rtol=0.0)
    rest = torch.linalg.qr(torch.cat([found.basis, torch.randn(8, 6)], 1)).Q[:, 2:]
    free = noise @ rest
    assert float(free.mean(0).abs().max()) < 0.08
    assert float((free.mT @ free / 4000 - torch.eye(6)).abs().max()) < 0.12


def test_cosines_along_the_chunk() -> None:
    basis = cosine_basis((8, 3), 2, dtype=torch.float64)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(6, dtype=torch.float64))
    for column in range(6):
        one = basis[:, column].reshape(8, 3)
        assert one.abs().sum(0).nonzero().flatten().tolist() == [column % 3]
    assert torch.allclose(basis[:, 0].reshape(8, 3)[:, 0], torch.tensor(math.sqrt(1 / 8)).double())
    half = basis[:, 3].reshape(8, 3)[:, 0]  # half a wave, falling
    assert bool((half.diff() < 0).all())
    assert torch.allclose(half, -half.flip(0))
    whole = cosine_basis((8, 3), 8)
    assert whole.dtype is torch.float32
    assert whole.shape == (24, 24)
    NoiseAction(Linear(torch.eye(24), (8, 3), (8, 3)), whole)


def test_a_repeated_noise_is_one_number_a_dimension() -> None:
    basis = repeated_basis((16, 2))
    noise = (basis @ torch.tensor([1.0, -2.0])).reshape(16, 2)
    torch.testing.assert_close(noise, torch.tensor([[0.25, -0.5]]).expand(16, 2))


@pytest.mark.parametrize("frequencies", [0, 9])
def test_frequencies_are_those_of_the_rows(frequencies: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"in \[1, 8\].*got {frequencies}"):
        cosine_basis((8, 3), frequencies)


def test_a_noise_without_rows_has_no_cosines() -> None:
    with pytest.raises(ShapeError, match=r"got \(32,\).*response_basis"):
        repeated_basis((32,))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank": 0}, "rank of at least 1, got 0"),
        ({"rank": 9}, "rank of at most 8.* got 0.9 and 9"),
        ({"share": 0.0}, r"share in \(0, 1\]"),
        ({"share": 1.1}, r"share in \(0, 1\]"),
        ({"most": 0}, "most of at least 1"),
        ({"states": 0}, "states of at least 1"),
        ({"probes": 0}, "probes of at least 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], sentence: str) -> None:
    policy = Linear(torch.randn(8, 8), (4, 2))
    with pytest.raises(ConfigurationError, match=sentence):
        response_basis(policy, states(4), LAYOUT, **options)


@pytest.mark.parametrize("way", ["gradient", "differences"])
def test_actions_that_do_not_respond_are_an_error(way: str) -> None:
    policy = Linear(torch.zeros(8, 8), (4, 2), way=way)
    with pytest.raises(ConfigurationError, match="respond to the noise.*cosine_basis"):
        response_basis(policy, states(), LAYOUT)


def test_a_derivative_that_is_not_finite_is_an_error() -> None:
    rows = torch.randn(10, 4)
    rows[3, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="finite derivatives"):
        gradient_basis(rows)


def test_a_layout_for_longer_chunks_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least 6 actions"):
        response_basis(Linear(torch.randn(8, 8), (4, 2)), states(), replace(LAYOUT, execute=5))
