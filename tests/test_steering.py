"""The steering policy: it starts at the base policy, can leave it, and fits TorchRL."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import InteractionType, set_interaction_type
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from modereg.errors import ConfigurationError, KeyMismatchError, ShapeError
from modereg.networks import MLP
from modereg.steering import NoiseNormal, SteeringHead, SteeringPolicy

CODES, OBS, SHAPE = 3, 5, (4, 2)


def policy(**options: object) -> SteeringPolicy:
    return SteeringPolicy(["observation"], OBS, CODES, SHAPE, **options)


def data(size: int = 16, dtype: torch.dtype = torch.float32) -> TensorDict:
    codes = torch.eye(CODES, dtype=dtype)[torch.randint(CODES, (size,))]
    observation = 10 * torch.randn(size, OBS, dtype=dtype)
    return TensorDict({"observation": observation, "latent_features": codes}, [size])


def perturbed() -> SteeringPolicy:
    steering = policy()
    for parameter in steering.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return steering


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_starts_at_the_base_policy_exactly(dtype: torch.dtype) -> None:
    steering, td = policy().to(dtype), data(dtype=dtype)
    dist = steering.distribution(td)
    assert torch.equal(dist.base_dist.loc, torch.zeros(16, *SHAPE, dtype=dtype))
    assert torch.equal(dist.base_dist.scale, torch.ones(16, *SHAPE, dtype=dtype))
    assert torch.equal(dist.kl_to_standard_normal(), torch.zeros(16, dtype=dtype))


def test_at_the_start_it_draws_the_noise_of_the_base_policy() -> None:
    td, steering = data(), policy()
    torch.manual_seed(5)
    steered = steering(td)["action"]
    torch.manual_seed(5)
    assert torch.equal(steered, torch.randn(16, *SHAPE))


def test_at_the_start_mean_and_deviation_have_gradients() -> None:
    steering, td = policy(), data()
    dist = steering.distribution(td)
    (dist.log_prob(2 * torch.randn(16, *SHAPE))).sum().backward()
    head = steering.head
    last = head.network.layers[-1]
    for parameter in (head.log_std.weight, head.log_std.bias, last.weight, last.bias):
        assert (parameter.grad != 0).any()


def test_the_squash_has_gradient_one_at_the_base_and_never_zero_before_float_ends() -> None:
    raw = torch.tensor([-5.0, -1e-4, 0.0, 1e-4, 1.0], requires_grad=True)
    log_std = policy().head._squash(raw)
    log_std.sum().backward()
    assert log_std[2] == 0
    torch.testing.assert_close(raw.grad[1:4], torch.ones(3))
    assert (raw.grad > 0).all()
    assert (log_std > -3.0).all()
    assert (log_std < 0.3).all()


def test_mean_and_deviation_stay_in_their_bounds() -> None:
    steering = policy()
    for parameter in steering.parameters():
        parameter.data.add_(50 * torch.randn_like(parameter))
    dist = steering.distribution(data(200))
    assert dist.base_dist.loc.abs().max() <= 2.0
    log_std = dist.base_dist.scale.log()
    assert log_std.min() >= -3.0 - 1e-5
    assert log_std.max() <= 0.3 + 1e-5


@pytest.mark.parametrize("std", [0.06, 0.5, 1.0, 1.3])
def test_set_std(std: float) -> None:
    steering = perturbed()
    steering.set_std(std)
    scale = steering.distribution(data()).base_dist.scale
    torch.testing.assert_close(scale, torch.full_like(scale, std), rtol=1e-4, atol=0)


@pytest.mark.parametrize("std", [0.01, 1.5, -1.0])
def test_set_std_outside_its_range_is_refused(std: float) -> None:
    with pytest.raises(ConfigurationError, match=r"within \(0.0498, 1.35\)"):
        policy().set_std(std)


def test_it_writes_what_torchrl_s_losses_read() -> None:
    steering, td = perturbed(), data()
    out = steering(td)
    reference = Independent(Normal(out["loc"], out["scale"]), 2)
    assert out["action"].shape == (16, *SHAPE)
    torch.testing.assert_close(out["action_log_prob"], reference.log_prob(out["action"]))
    torch.testing.assert_close(steering.get_dist(td).base_dist.loc, out["loc"])
    dist = steering.distribution(td)
    torch.testing.assert_close(dist.log_prob(out["action"]), out["action_log_prob"])
    torch.testing.assert_close(dist.entropy(), reference.entropy())


def test_deterministic_actions_are_the_mean() -> None:
    steering, td = perturbed(), data()
    with set_interaction_type(InteractionType.DETERMINISTIC):
        out = steering(td)
    torch.testing.assert_close(out["action"], out["loc"])


def test_codes_lead_to_different_noises_and_kl_is_torch_s() -> None:
    steering = perturbed()
    td = TensorDict(
        {"observation": torch.ones(CODES, OBS), "latent_features": torch.eye(CODES)}, [CODES]
    )
    dist = steering.distribution(td)
    assert not torch.allclose(dist.base_dist.loc[0], dist.base_dist.loc[1])
    assert not torch.allclose(dist.base_dist.scale[0], dist.base_dist.scale[1])
    standard = Independent(Normal(torch.zeros(SHAPE), torch.ones(SHAPE)), 2).expand([CODES])
    expected = kl_divergence(Independent(dist.base_dist, 2), standard)
    torch.testing.assert_close(dist.kl_to_standard_normal(), expected)


def test_noise_normal_expands() -> None:
    dist = NoiseNormal(torch.zeros(2), torch.ones(2)).expand(torch.Size([7]))
    assert isinstance(dist, NoiseNormal)
    assert dist.batch_shape == (7,)
    assert dist.event_shape == (2,)
    assert dist.sample().shape == (7, 2)


def test_nested_keys() -> None:
    steering = SteeringPolicy(
        [("agent", "position"), ("agent", "time")],
        OBS,
        CODES,
        SHAPE,
        latent_key=("agent", "code"),
        action_key=("agent", "action"),
    )
    inner = {"position": torch.randn(6, 4), "time": torch.rand(6, 1), "code": torch.eye(3)[[0] * 6]}
    out = steering(TensorDict({"agent": TensorDict(inner, [6])}, [6]))
    assert out["agent", "action"].shape == (6, *SHAPE)
    assert out["agent", "action_log_prob"].shape == (6,)
    assert ("agent", "loc") in out.keys(True)
    assert set(out.keys()) == {"agent"}


def test_inputs_of_any_shape_and_type_are_standardised_as_they_are_read() -> None:
    image = torch.randint(0, 255, (50, 3, 20, 20), dtype=torch.uint8)
    place = 3 + 2 * torch.randn(50, 2, dtype=torch.float64)
    rows = TensorDict({"image": image, "place": place}, [50])
    network = MLP(1204, 4, plain_features=2, zero_init=True)
    steering = SteeringPolicy(["image", "place"], 1202, 2, (4,), network=network)
    steering.fit_inputs(rows)
    shift = network.features.shift
    torch.testing.assert_close(shift[-2:], place.mean(0).float())
    torch.testing.assert_close(shift[:-2], image.flatten(1).float().mean(0))
    with pytest.raises(KeyMismatchError, match="place"):
        steering.fit_inputs(rows.select("image"))


def test_a_network_of_one_s_own() -> None:
    network = MLP(OBS + CODES, 8, (6,), octaves=2, plain_features=CODES, zero_init=True)
    steering = policy(network=network)
    assert steering.head.network is network
    assert torch.equal(steering.distribution(data()).base_dist.loc, torch.zeros(16, *SHAPE))


def test_missing_entries_are_named() -> None:
    with pytest.raises(KeyMismatchError, match="steering policy reads 'latent_features'"):
        policy().distribution(data().select("observation"))


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ShapeError, match="positive sizes, got observation_dim 0"):
        SteeringPolicy(["observation"], 0, CODES, SHAPE)
    with pytest.raises(ShapeError, match=r"noise_shape \(4, 0\)"):
        SteeringPolicy(["observation"], OBS, CODES, (4, 0))
    with pytest.raises(ConfigurationError, match="around 0"):
        SteeringHead(nn.Identity(), 3, (2,), log_std_range=(-3.0, -0.5))


@pytest.mark.parametrize("held", [(), (1,)])
def test_it_compiles(held: tuple[int, ...]) -> None:
    steering, td = perturbed(), data()
    if held:
        steering.head.steer_only(all_but(*held), 0.4)
    inputs = (td["observation"], td["latent_features"])
    compiled = torch.compile(steering.head, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), steering.head(*inputs))


def test_maximum_likelihood_finds_mean_and_deviation_of_each_code() -> None:
    steering = SteeringPolicy(["observation"], 1, 2, (1,), hidden=(16,))
    code = torch.arange(2000) % 2
    noise = torch.where(code == 0, -1.0, 1.0) + torch.randn(2000) * torch.where(code == 0, 0.2, 0.8)
    td = TensorDict(
        {"observation": torch.zeros(2000, 1), "latent_features": torch.eye(2)[code]}, [2000]
    )
    optimizer = torch.optim.Adam(steering.parameters(), 2e-2)
    for _ in range(300):
        loss = -steering.distribution(td).log_prob(noise[:, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    base = steering.distribution(td[:2]).base_dist
    torch.testing.assert_close(base.loc[:, 0], torch.tensor([-1.0, 1.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(base.scale[:, 0], torch.tensor([0.2, 0.8]), atol=0.05, rtol=0)
    assert math.isfinite(float(loss.detach()))


@pytest.mark.parametrize("mode", [None, InteractionType.RANDOM, InteractionType.DETERMINISTIC])
def test_its_forward_is_that_of_the_sequence_of_its_modules(mode: InteractionType | None) -> None:
    nested = SteeringPolicy(
        [("a", "o")], OBS, CODES, SHAPE, latent_key=("z", "f"), action_key=("x", "w")
    )
    for parameter in nested.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    flat = data()
    td = TensorDict({"a": {"o": flat["observation"]}, "z": {"f": flat["latent_features"]}}, [16])
    results = []
    for forward in (nested.forward, super(SteeringPolicy, nested).forward):
        torch.manual_seed(5)
        with set_interaction_type(mode), torch.no_grad():
            results.append(forward(td.copy()))
    own, sequence = results
    assert set(own.keys(True, True)) == set(sequence.keys(True, True))
    torch.testing.assert_close(own, sequence, rtol=0, atol=1e-6)


def test_chosen_codes_get_the_deviation_and_the_others_exactly_one() -> None:
    head = SteeringPolicy(["observation"], 3, 4, (2, 2)).head
    nn.init.normal_(head.log_std.weight)
    for std in (0.3, 1.2):
        head.set_std(std, torch.tensor([True, False, True, False]))
        scale = head(torch.randn(4, 3), torch.eye(4))[1]
        assert torch.allclose(scale[::2], torch.full((2, 2, 2), std))
        assert torch.equal(scale[1::2], torch.ones(2, 2, 2))


def all_but(*codes: int) -> torch.Tensor:
    return torch.tensor([code not in codes for code in range(CODES)])


def each_code(dtype: torch.dtype = torch.float32) -> TensorDict:
    codes = torch.eye(CODES, dtype=dtype)
    observed = torch.randn(CODES, OBS, dtype=dtype)
    return TensorDict({"observation": observed, "latent_features": codes}, [CODES])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_that_are_not_steered_are_the_base_exactly(dtype: torch.dtype) -> None:
    steering, td = perturbed().to(dtype), each_code(dtype)
    before = steering.distribution(td).mean
    steering.head.steer_only(all_but(1), 0.4)
    found = steering.distribution(td)
    assert torch.equal(found.mean[1], torch.zeros(SHAPE, dtype=dtype))
    assert torch.equal(found.stddev[1], torch.ones(SHAPE, dtype=dtype))
    assert torch.equal(found.mean[[0, 2]], before[[0, 2]])
    torch.testing.assert_close(found.stddev[[0, 2]], torch.full((2, *SHAPE), 0.4, dtype=dtype))
    torch.manual_seed(3)
    drawn = steering(td)["action"][1]
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.randn(CODES, *SHAPE, dtype=dtype)[1])
    steering.head.steer_only(all_but(), 0.5)
    assert torch.equal(steering.distribution(td).mean, before)


def test_a_code_that_is_held_has_no_gradient_until_all_are_steered() -> None:
    steering, td = perturbed(), each_code()
    steering.head.steer_only(all_but(1), 0.4)
    scale = steering.distribution(td).stddev
    for held in (True, False):
        steering.zero_grad()
        steering.distribution(td).mean[1].sum().backward()
        moved = [p.grad is not None and bool(p.grad.any()) for p in steering.parameters()]
        assert any(moved) is not held
        steering.head.steer_all()
    assert torch.equal(steering.distribution(td).stddev, scale)


def test_a_state_says_which_codes_are_steered_and_one_of_before_steers_all() -> None:
    made, td = perturbed(), each_code()
    mean = made.distribution(td).mean
    made.head.steer_only(all_but(2), 0.4)
    other = policy()
    other.load_state_dict(made.state_dict())
    first, second = made.distribution(td), other.distribution(td)
    assert torch.equal(second.mean, first.mean)
    assert torch.equal(second.stddev, first.stddev)

    earlier = {name: v for name, v in made.state_dict().items() if not name.endswith(".steered")}
    assert len(earlier) == len(made.state_dict()) - 1
    other.load_state_dict(earlier)
    assert torch.equal(other.distribution(td).mean, mean)
    assert torch.equal(other.head.steered, torch.ones(CODES))
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(earlier | {"module.0.module.steered": torch.ones(CODES + 1)})


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_that_bounds_nothing_is_refused(bound: float) -> None:
    with pytest.raises(ConfigurationError, match="positive, finite mean_bound"):
        SteeringPolicy(["observation"], 3, 4, (2, 2), mean_bound=bound)
