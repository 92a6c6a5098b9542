"""The contract of a generative policy, its wrapper for functions, and flow matching."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from modereg.errors import (
    ConfigurationError,
    KeyMismatchError,
    NonFiniteError,
    ShapeError,
    StochasticSamplerError,
)
from modereg.policies import (
    FlowPolicy,
    GenerativePolicy,
    as_generative_policy,
    assert_deterministic,
)

OBS, SHAPE = 3, (4, 2)


def shift(noise: Tensor, observation: Tensor) -> Tensor:
    return noise + observation[..., None, :2]


def policy(function: object = shift, **options: object) -> GenerativePolicy:
    given = {"in_keys": ["observation"], "noise_shape": SHAPE, "chunk_shape": SHAPE} | options
    return as_generative_policy(function, **given)


def data(*size: int, dtype: torch.dtype = torch.float32) -> TensorDict:
    return TensorDict({"observation": torch.randn(*size, OBS, dtype=dtype)}, size)


@pytest.mark.parametrize("size", [(), (5,), (2, 3)])
def test_given_noise_is_decoded(size: tuple[int, ...]) -> None:
    td, noise = data(*size), torch.randn(*size, *SHAPE)
    out = policy()(td.set("noise", noise))
    torch.testing.assert_close(out["action_chunk"], shift(noise, td["observation"]))


def test_missing_noise_is_drawn_from_the_standard_normal() -> None:
    td = data(4000).zero_()
    torch.manual_seed(1)
    chunk = policy()(td)["action_chunk"]
    torch.manual_seed(1)
    assert torch.equal(chunk, torch.randn(4000, *SHAPE))
    assert set(td.keys()) == {"observation", "action_chunk"}
    assert float(chunk.std()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_missing_noise_has_the_dtype_of_the_policy(dtype: torch.dtype) -> None:
    flow = FlowPolicy(
        Velocity(),
        observation_keys=["observation"],
        chunk_shape=SHAPE,
        time_convention="noise_at_0",
    ).to(dtype)
    assert flow(data(3, dtype=dtype))["action_chunk"].dtype == dtype


def test_keys_may_be_nested_and_several() -> None:
    wrapped = policy(
        lambda noise, a, b: noise * a[..., None] + b[..., None],
        in_keys=[("o", "a"), ("o", "b")],
        noise_key=("o", "w"),
        chunk_key=("o", "chunk"),
    )
    a, b, w = torch.randn(5, 1), torch.randn(5, 1), torch.randn(5, *SHAPE)
    td = wrapped(TensorDict({"o": TensorDict({"a": a, "b": b, "w": w}, [5])}, [5]))
    torch.testing.assert_close(td["o", "chunk"], w * a[..., None] + b[..., None])
    assert wrapped.in_keys == [("o", "a"), ("o", "b"), ("o", "w")]
    assert wrapped.out_keys == [("o", "chunk")]


def test_noise_and_chunk_may_differ_in_shape() -> None:
    padded = policy(lambda noise, _: noise[..., :2], noise_shape=(4, 8))
    assert padded(data(3))["action_chunk"].shape == (3, *SHAPE)


def test_noise_of_the_wrong_shape_is_refused() -> None:
    td = data(3).set("noise", torch.randn(3, 4, 3))
    with pytest.raises(ShapeError, match=r"expected noise of shape \(3, 4, 2\).*got \(3, 4, 3\)"):
        policy()(td)
    with pytest.raises(ShapeError, match="got \\(2, 4, 2\\)"):
        policy().decode_from(data(3), torch.randn(2, *SHAPE))


def test_a_missing_observation_is_named() -> None:
    with pytest.raises(KeyMismatchError, match="policy reads 'observation'.*it has \\['state'\\]"):
        policy()(TensorDict({"state": torch.zeros(2, 3)}, [2]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"in_keys": ["noise"]}, "distinct keys"),
        ({"chunk_shape": (4,)}, "actions, action dimensions"),
        ({"chunk_shape": (0, 2)}, "actions, action dimensions"),
        ({"noise_shape": ()}, "positive sizes"),
        ({"noise_shape": (4, 0)}, "positive sizes"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        policy(**options)


def test_a_stochastic_sampler_is_refused_with_the_fix() -> None:
    with pytest.raises(StochasticSamplerError, match="deterministic sampler.*DDIMScheduler"):
        policy(lambda noise, _: noise + 0.01 * torch.randn_like(noise), example=data(2))
    dropout = nn.Dropout(0.5)
    with pytest.raises(StochasticSamplerError, match=r"\.eval\(\)"):
        policy(lambda noise, _: dropout(noise), example=data(2))
    dropout.eval()
    policy(lambda noise, _: dropout(noise), example=data(2))


def test_a_wrong_chunk_and_a_non_finite_one_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"chunk of shape \(2, 4, 2\), got \(2, 3, 2\)"):
        policy(lambda noise, _: noise[:, 1:], example=data(2))
    with pytest.raises(NonFiniteError, match="non-finite chunk"):
        policy(lambda noise, _: noise / 0, example=data(2))


def test_the_probe_leaves_the_random_state_alone() -> None:
    wrapped, td, before = policy(), data(2), torch.random.get_rng_state()
    assert_deterministic(wrapped, td)
    assert torch.equal(torch.random.get_rng_state(), before)


class Net(nn.Module):
    """A policy as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(OBS, 2)

    def forward(self, noise: Tensor, observation: Tensor) -> Tensor:
        return noise * self.linear(observation).unsqueeze(-2)


def test_parameters_of_a_module_are_seen_once_and_copied_with_it() -> None:
    net = Net()
    wrapped = policy(net)
    assert [id(p) for p in wrapped.parameters()] == [id(p) for p in net.parameters()]
    assert list(wrapped.state_dict()) == ["module.linear.weight", "module.linear.bias"]
    assert list(policy(lambda w, o: 2 * net(w, o), module=net).parameters())
    other = copy.deepcopy(wrapped)
    other.module.linear.weight.data.zero_()
    other.module.linear.bias.data.zero_()
    td = data(2).set("noise", torch.ones(2, *SHAPE))
    assert (other(td.clone())["action_chunk"] == 0).all()
    assert (wrapped(td.clone())["action_chunk"] != 0).all()


def test_decoding_is_differentiable_in_the_noise_only() -> None:
    wrapped = policy(Net()).requires_grad_(False)
    noise = torch.randn(3, *SHAPE, requires_grad=True)
    (grad,) = torch.autograd.grad(wrapped.decode_from(data(3), noise).sum(), noise)
    assert (grad != 0).all()
    assert not wrapped(data(3))["action_chunk"].requires_grad


class Velocity(nn.Module):
    """A small velocity field."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8 + 1 + OBS, 32), nn.Tanh(), nn.Linear(32, 8))

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        inputs = torch.cat([x.flatten(-2), t.unsqueeze(-1), observation], -1)
        return self.net(inputs).unflatten(-1, SHAPE)


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
    assert_deterministic(policy, td)


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
