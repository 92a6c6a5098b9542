"""Flow matching in pure torch: conventions, steps, cloning, types."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from modereg.errors import (
    ConfigurationError,
    ShapeError,
)
from modereg.policies import (
    FlowPolicy,
    probe_policy,
)
from tests.policies.made import OBS, SHAPE, Velocity, data


class Straight(nn.Module):
    """The exact field of a flow whose every path leads to one target; it knows its convention."""

    def __init__(self, noise_at_0: bool) -> None:
        super().__init__()
        self.noise_at_0 = noise_at_0

    def forward(self, x: Tensor, t: Tensor, target: Tensor) -> Tensor:
        progress = (t if self.noise_at_0 else 1 - t)[..., None, None]
        field = (target[..., None, :2] - x) / (1 - progress)
        return field if self.noise_at_0 else -field


class Reversed(nn.Module):
    """A field of one convention told in the other."""

    def __init__(self, velocity: nn.Module) -> None:
        super().__init__()
        self.velocity = velocity

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        return -self.velocity(x, 1 - t, observation)


def flow(velocity: nn.Module, convention: str, num_steps: int = 8) -> FlowPolicy:
    return FlowPolicy(
        velocity,
        observation_keys=["observation"],
        chunk_shape=SHAPE,
        time_convention=convention,
        num_steps=num_steps,
    )


@pytest.mark.parametrize("convention", ["noise_at_0", "noise_at_1"])
@pytest.mark.parametrize("num_steps", [1, 7])
def test_straight_paths_arrive_exactly(convention: str, num_steps: int) -> None:
    policy = flow(Straight(convention == "noise_at_0"), convention, num_steps)
    td = data(5, dtype=torch.float64)
    chunk = policy.decode_from(td, torch.randn(5, *SHAPE).double())
    torch.testing.assert_close(chunk, td["observation"][:, None, :2].expand(5, *SHAPE))


def test_a_constant_field_moves_the_noise_by_its_length() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor, t: Tensor, _: Tensor) -> Tensor:
            return torch.full_like(x, 3.0)

    noise = torch.randn(5, *SHAPE)
    forward = flow(Constant(), "noise_at_0").decode_from(data(5), noise)
    torch.testing.assert_close(forward, noise + 3.0)
    backward = flow(Constant(), "noise_at_1").decode_from(data(5), noise)
    torch.testing.assert_close(backward, noise - 3.0)


def test_the_network_is_told_the_times_of_its_convention() -> None:
    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.times: list[float] = []

        def forward(self, x: Tensor, t: Tensor, _: Tensor) -> Tensor:
            assert t.shape == x.shape[:-2]
            self.times.append(float(t.flatten()[0]))
            return torch.zeros_like(x)

    for convention, expected in (
        ("noise_at_0", [0, 0.25, 0.5, 0.75]),
        ("noise_at_1", [1, 0.75, 0.5, 0.25]),
    ):
        recorder = Recorder()
        flow(recorder, convention, 4)(data(2, 3))
        assert recorder.times == expected


def test_both_conventions_agree_in_decoding_and_cloning() -> None:
    velocity, td = Velocity(), data(6)
    one, other = flow(velocity, "noise_at_0"), flow(Reversed(velocity), "noise_at_1")
    noise, chunk = torch.randn(6, *SHAPE), torch.randn(6, *SHAPE)
    torch.testing.assert_close(one.decode_from(td, noise), other.decode_from(td, noise))
    losses = []
    for policy in (one, other):
        torch.manual_seed(2)
        losses.append(policy.cloning_loss(chunk, td["observation"]))
    torch.testing.assert_close(losses[0], losses[1])


def test_decoding_is_independent_of_the_batch_and_deterministic() -> None:
    policy, td = flow(Velocity(), "noise_at_0"), data(6)
    noise = torch.randn(6, *SHAPE)
    together = policy.decode_from(td, noise)
    alone = torch.stack([policy.decode_from(td[i : i + 1], noise[i : i + 1])[0] for i in range(6)])
    torch.testing.assert_close(together, alone)
    probe_policy(policy, td)


def test_the_cloning_loss_of_the_exact_field_is_zero_and_training_lowers_it() -> None:
    target = torch.randn(64, OBS, dtype=torch.float64)
    chunk = target[:, None, :2].expand(64, *SHAPE)
    exact = flow(Straight(noise_at_0=True), "noise_at_0").cloning_loss(chunk, target)
    assert float(exact) == pytest.approx(0.0, abs=1e-12)
    policy = flow(Velocity(), "noise_at_1")
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    losses = []
    for _ in range(150):
        loss = policy.cloning_loss(chunk.float(), target.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_wrong_options_of_a_flow_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="time_convention 'noise_at_0' or 'noise_at_1'"):
        flow(Velocity(), "forward")
    with pytest.raises(ConfigurationError, match="at least one Euler step"):
        flow(Velocity(), "noise_at_0", 0)


def test_decoding_compiles() -> None:
    policy, td = flow(Velocity(), "noise_at_0", 2), data(3)
    noise = torch.randn(3, *SHAPE)
    compiled = torch.compile(policy.decode, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(noise, td["observation"]), policy.decode(noise, td["observation"])
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_missing_noise_has_the_dtype_of_the_policy(dtype: torch.dtype) -> None:
    flow = FlowPolicy(
        Velocity(),
        observation_keys=["observation"],
        chunk_shape=SHAPE,
        time_convention="noise_at_0",
    ).to(dtype)
    assert flow(data(3, dtype=dtype))["action_chunk"].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_another_type_are_met_at_the_boundary(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    velocity, td, noise = Velocity(), data(6), torch.randn(6, *SHAPE)
    exact = flow(velocity, "noise_at_1").decode_from(td, noise)
    made = flow(copy.deepcopy(velocity), "noise_at_1").to(dtype)
    probe_policy(made, td, dtype=torch.float32)
    chunk = made.decode_from(td, noise)
    assert chunk.dtype == torch.float32
    tolerance = {torch.float64: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    torch.testing.assert_close(chunk, exact, rtol=tolerance, atol=tolerance)
    assert made.cloning_loss(noise, td["observation"]).dtype == torch.float32


def test_a_wrong_width_is_refused_in_cloning_too() -> None:
    made = FlowPolicy(
        Velocity(),
        observation_keys=["observation"],
        chunk_shape=SHAPE,
        time_convention="noise_at_0",
        observation_shapes=[(OBS,)],
    )
    with pytest.raises(ShapeError, match=r"one observation \(3,\)"):
        made.cloning_loss(torch.randn(5, *SHAPE), torch.randn(5, 1))
