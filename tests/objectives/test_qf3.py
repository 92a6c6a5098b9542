"""A critic's gradient on a denoiser's weights, against what a page of arithmetic gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from modereg import keys
from modereg.decoding import ChunkDecoder
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.layout import Layout
from modereg.objectives import QF3Loss
from modereg.policies import DenoisingChain, FlowPolicy, NoisePath, freeze
from modereg.residual import ChunkResidual
from modereg.steering import SteeringPolicy
from modereg.testing import CountingEnv
from modereg.wrapping import steer_env
from tests.objectives.made import BOUND, CODES, GAMMA, chunk_critic, descend_in_turn, transitions

SHAPE, STEPS, CLIP, CFM, ANCHOR = (4, 2), 5, 0.3, 0.2, 0.7


class Linear(nn.Module):
    """v = slope x + shift, whatever the time and the observation."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(-0.4))
        self.shift = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        return self.slope * x + self.shift


def made(
    steps: int | None = None, residual: ChunkResidual | None = None, **options: Any
) -> QF3Loss:
    """Return the loss of a flow that the environment plays, 3 of 4 actions, clipped at a half."""
    torch.manual_seed(0)
    base = FlowPolicy(
        Linear(),
        observation_keys=["observation"],
        chunk_shape=SHAPE,
        time_convention="noise_at_0",
        num_steps=STEPS,
    )
    chain = DenoisingChain(freeze(base), steps, noise=0.0)
    layout = Layout(12, execute=3, gamma=GAMMA)
    env = steer_env(CountingEnv([3, 7], bound=BOUND), base, CODES, layout, residual)
    env.set_decoder(chain)
    steering = SteeringPolicy(["observation"], 3, CODES, SHAPE, hidden=(8,))
    given = {"gamma": GAMMA, "clip": CLIP, "cfm_coef": CFM, "kl_coef": ANCHOR} | options
    return QF3Loss(chain, steering, chunk_critic(), ChunkDecoder(env), **given)


def played(size: int = 40) -> TensorDict:
    """Return transitions with the noise and the whole chunk, small enough not to be clipped."""
    torch.manual_seed(1)
    data = transitions(size)
    data.set(keys.ACTION, 0.5 * torch.randn(size, *SHAPE))
    chunk = 0.2 * torch.randn(size, *SHAPE)
    data.get("next").set(keys.CHUNK, chunk).set(keys.EXECUTED, chunk[:, :3])
    return data


def moved(loss: QF3Loss) -> QF3Loss:
    """Move the trained weights away from the base's."""
    with torch.no_grad():
        loss.tuned.velocity.slope.add_(0.2)
        loss.tuned.velocity.shift.sub_(0.3)
    return loss


def seeded(loss: QF3Loss, data: TensorDictBase) -> dict[str, Tensor]:
    torch.manual_seed(2)
    return loss.actor_loss(data)


@pytest.mark.parametrize("trained", [None, 2])
def test_the_loss_and_its_gradient_by_hand(trained: int | None) -> None:
    loss, data = moved(made(trained)), played()
    out = seeded(loss, data)
    out["loss_actor"].backward()
    torch.manual_seed(2)
    first = STEPS - (trained or STEPS)
    time = torch.randint(first, STEPS, (40,)) / STEPS
    values, slope, errors, away = [], [], 0.0, 0.0
    gradient, outside = torch.zeros(2), 0
    rows = []
    for t, w, a in zip(time, data[keys.ACTION], data["next", keys.CHUNK], strict=True):
        x = t * a + (1 - t) * w
        v, v_base = -0.2 * x - 0.2, -0.4 * x + 0.1
        d = v - (a - w)
        led = a + (1 - t) * d.clamp(-CLIP, CLIP)
        total = led[:3].clamp(-BOUND, BOUND).sum()
        values.append(min(total + 5.0, 3.0 * total))
        slope.append(1.0 if total + 5.0 < 3.0 * total else 3.0)
        errors += 0.5 * float(d.square().sum()) / 40
        away += 0.5 * float((v - v_base).square().sum()) / 40
        outside += int((d.abs() > CLIP).sum())
        free = (d.abs() < CLIP) & (led.abs() < BOUND)
        free[3] = False  # not executed
        rows.append((t, x, d, v - v_base, free))
    size = float(torch.stack(values).abs().mean())
    for (t, x, d, gap, free), k in zip(rows, slope, strict=True):
        inner = -k * (1 - t) * free / size + CFM * d + ANCHOR * gap
        gradient += torch.stack([(inner * x).sum(), inner.sum()]) / 40
    expected = -float(torch.stack(values).mean()) / size + CFM * errors + ANCHOR * away
    assert float(out["loss_actor"].detach()) == pytest.approx(expected, rel=1e-4)
    assert float(out["loss_cfm"]) == pytest.approx(CFM * errors, rel=1e-4)
    assert float(out["loss_kl"]) == pytest.approx(ANCHOR * away, rel=1e-4)
    assert float(out["kl"]) == pytest.approx(away, rel=1e-4)
    assert float(out["clipped"]) == pytest.approx(outside / (40 * 8))
    assert 0 < outside < 320
    found = torch.stack([loss.tuned.velocity.slope.grad, loss.tuned.velocity.shift.grad])
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)


def test_beyond_the_clip_the_critic_leads_nowhere() -> None:
    loss = moved(made(clip=1e-4, cfm_coef=0.0, kl_coef=0.0))
    seeded(loss, played())["loss_actor"].backward()
    assert float(loss.tuned.velocity.shift.grad) == 0.0
    loss = moved(made(clip=1e4, cfm_coef=0.0, kl_coef=0.0))
    seeded(loss, played())["loss_actor"].backward()
    assert float(loss.tuned.velocity.shift.grad) < 0.0


def test_the_anchor_is_zero_at_first_and_only_the_copy_gets_a_gradient() -> None:
    loss, data = made(), played()
    before = loss.chain.base.velocity.shift.clone()
    out = loss(data)
    assert float(out["kl"]) == 0.0
    out["loss_actor"].backward()
    learned = {name for name, value in loss.named_parameters() if value.grad is not None}
    assert learned == {"tuned.velocity.slope", "tuned.velocity.shift"}
    assert loss.chain.base.velocity.shift.grad is None
    assert torch.equal(loss.chain.base.velocity.shift, before)
    assert all(part.requires_grad for part in loss.qvalue_network.parameters())


def test_the_target_is_the_value_of_what_is_played_now() -> None:
    loss, data = moved(made()), played()
    torch.manual_seed(3)
    found, after = loss.target(data), data["next"]
    torch.manual_seed(3)
    x = loss.actor_network.distribution(after).sample()
    for _ in range(STEPS):
        x = x + (-0.2 * x - 0.2) / STEPS
    total = x[:, :3].clamp(-BOUND, BOUND).flatten(1).sum(1)
    value = torch.minimum(total + 5.0, 3.0 * total) * ~after["terminated"].squeeze(-1)
    expected = after["reward"].squeeze(-1) + GAMMA ** after[keys.STEPS].squeeze(-1) * value
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not found.requires_grad


def test_a_residual_moves_what_the_critic_values_and_not_what_is_matched() -> None:
    """Chunks that it moved give the loss of the others but for the value."""
    residual = ChunkResidual.at_zero(
        ["observation"], 3, CODES, torch.eye(2, 6), bound=0.1, hidden=(8,)
    )
    with torch.no_grad():
        residual.network.head.network.layers[-1].bias.fill_(5.0)
    plain, loss, data = made(), made(residual=residual), played()
    expected, with_it = seeded(plain, data), data.clone()
    with_it["next", keys.CHUNK] = residual(data, data["next", keys.CHUNK]).detach()
    out = seeded(loss, with_it)
    torch.testing.assert_close(out["loss_cfm"], expected["loss_cfm"])
    assert not torch.allclose(out["loss_actor"], expected["loss_actor"])
    out["loss_actor"].backward()
    assert all(value.grad is None for value in residual.parameters())


def test_it_is_a_loss_module_of_its_own_with_keys_of_its_own() -> None:
    loss, data = made(), played()
    expected = loss(data.clone().set("more", torch.zeros(40)))
    torch.manual_seed(2)
    expected = loss(data)
    assert set(expected.keys()) == set(loss.out_keys)
    assert set(loss.in_keys) <= set(data.keys(True, True))
    loss.set_keys(action=("next", "noise"), chunk=("a", "chunk"))
    after = data.get("next")
    after.set("noise", data.pop(keys.ACTION)).set(("a", "chunk"), after.pop(keys.CHUNK))
    assert {("next", "noise"), ("next", "a", "chunk")} <= set(loss.in_keys)
    torch.manual_seed(2)
    for name, value in loss(data).items():
        torch.testing.assert_close(value, expected[name])
    with pytest.raises(KeyMismatchError, match="QF3Loss reads"):
        loss(data.exclude(("next", "noise")))


def test_independent_noise_is_not_read() -> None:
    loss, data = made(noise="independent"), played()
    assert keys.ACTION not in loss.in_keys
    assert torch.isfinite(loss(data.exclude(keys.ACTION))["loss_actor"])


def test_the_base_is_no_part_of_its_state() -> None:
    names = set(made().state_dict())
    assert {"tuned.velocity.slope", "tuned.velocity.shift"} <= names
    assert not any("base" in name or "chain" in name for name in names)


def test_what_a_network_says_little_of_is_shortened() -> None:
    """Of one that predicts the noise an error at t = .001 would be a thousand times as large."""
    signal, noise = torch.tensor([0.001, 0.6]), torch.tensor([1.0, 0.8])
    path = NoisePath(signal, noise, 1 / signal, -noise / signal)
    assert path.times.tolist() == pytest.approx([0.001 / 1.001, 0.6 / 1.4])
    assert path.rates.tolist() == pytest.approx([20 * 0.001, 1.4 / 0.8])


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"clip": 0.0}, "expected clip above 0 and finite, got 0.0"),
        ({"cfm_coef": -1.0}, "expected cfm_coef of at least 0 and finite, got -1.0"),
        ({"noise": "drawn"}, "expected noise 'played' or 'independent', got 'drawn'"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        made(**option)


def test_gradient_steps_move_the_chunk_to_where_it_pays() -> None:
    """A bandit that pays for large first numbers, played anew by the weights as they are."""
    torch.manual_seed(0)
    loss = made(kl_coef=0.1)
    net = nn.Sequential(nn.Linear(6, 64), nn.Mish(), nn.Linear(64, 2))
    loss.qvalue_network.module.forward = lambda s, z, x: net(x.flatten(-2))
    actor = torch.optim.Adam(loss.tuned.parameters(), 1e-2)
    values = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(100):
        data = played(128)
        with torch.no_grad():
            noise = torch.randn(128, *SHAPE)
            chunk = loss.chain.decode(noise, data["observation"])
        data.set(keys.ACTION, noise).get("next").set(keys.CHUNK, chunk)
        data["next", keys.EXECUTED] = loss.decoder.executed(chunk)
        data["next", "terminated"].fill_(True)
        data["next", "reward"] = 1.0 + data["next", keys.EXECUTED].flatten(1).mean(1, True)
        descend_in_turn(loss, data, values, actor)
    assert float(loss.tuned.velocity.shift.detach()) > 0.15
