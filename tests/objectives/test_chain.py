"""PPO over the steps of a denoising chain, against what a page of arithmetic gives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import ValueOperator

from modereg import keys
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.objectives import ChainPPOLoss
from modereg.policies import ChainRecorder, DenoisingChain, FlowPolicy, freeze

OBS, SHAPE, STEPS = 3, (2, 2), 4


class Constant(nn.Module):
    """v = theta plus the first of the observation, whatever x and t: means are linear in theta."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        return (self.theta + observation[..., :1, None]).expand(x.shape)


def chain(steps: int | None = None, key: Any = "observation", **options: Any) -> DenoisingChain:
    base = FlowPolicy(
        Constant(),
        observation_keys=[key],
        chunk_shape=SHAPE,
        time_convention="noise_at_0",
        num_steps=STEPS,
    )
    return DenoisingChain(freeze(base.double()), steps, **({"noise": 0.4, "floor": 0.05} | options))


def critic(key: Any = "observation", out: Any = "state_value") -> TensorDictModule:
    torch.manual_seed(1)
    return ValueOperator(nn.Linear(OBS, 1).double(), [key], [out])


def batch(made: DenoisingChain, *size: int, drift: float = 0.0) -> TensorDict:
    """Return decisions, their likelihoods as of a policy that was another one by a drift."""
    torch.manual_seed(0)
    td = TensorDict({"observation": torch.randn(*size, OBS).double()}, size)
    recorder = ChainRecorder(made)
    for row in td.unbind(-1):
        recorder.decode_from(row, torch.randn(*row.batch_size, *SHAPE).double())
    recorder.write(td)
    td[keys.CHAIN_LOG_PROB] += drift * torch.randn_like(td[keys.CHAIN_LOG_PROB])
    for key in ("advantage", "value_target"):
        td[key] = torch.randn(*size, 1).double()
    return td


def test_the_ratio_is_one_before_any_update() -> None:
    made = chain()
    td = batch(made, 5, 6)
    out = ChainPPOLoss(made, critic(), gamma_denoising=1.0, kl_coef=1.0)(td)
    assert float(out["kl_approx"].abs()) < 1e-12
    assert float(out["clip_fraction"]) == 0.0
    assert float(out["loss_kl"].detach()) == 0.0
    torch.testing.assert_close(out["loss_objective"], -td["advantage"].mean())


@pytest.mark.parametrize("steps", [None, 2, 1])
def test_the_gradient_by_hand(steps: int | None) -> None:
    r"""At a ratio of 1: - E_i gamma^(K'-1-i) A sum (x' - mean) / std^2 * d mean / d theta."""
    made = chain(steps)
    trained, gamma = made.steps, 0.7
    td = batch(made, 6, 2)
    loss = ChainPPOLoss(made, critic(), gamma_denoising=gamma)
    loss(td)["loss_objective"].backward()
    rows, expected = td.reshape(-1), 0.0
    for row in range(12):
        for i in range(trained):
            t = (STEPS - trained + i) / STEPS
            keep = 1.0 - 0.5 * 0.4**2 / STEPS
            gain = (1.0 + 0.5 * 0.4**2 * t) / STEPS
            variance = 0.4**2 * (1.0 - t) / STEPS
            v = 0.5 + float(rows["observation"][row, 0])
            x, after = rows[keys.CHAIN][row, i], rows[keys.CHAIN][row, i + 1]
            score = float(((after - keep * x - gain * v) / variance * gain).sum())
            advantage = gamma ** (trained - 1 - i) * float(rows["advantage"][row])
            expected -= advantage * score / (12 * trained)
    theta = made.tuned.velocity.theta
    assert float(theta.grad) == pytest.approx(expected, rel=1e-6)
    assert made.base.velocity.theta.grad is None


def test_each_step_is_clipped_in_its_own_range() -> None:
    made = chain()
    td = batch(made, 4, 5, drift=0.3)
    gamma, low, high = 0.9, 0.05, 0.2
    loss = ChainPPOLoss(made, critic(), clip_epsilon=high, clip_first=low, gamma_denoising=gamma)
    out, rows = loss(td), td.reshape(-1)
    now = made.log_prob(rows[keys.CHAIN], made.means(rows[keys.CHAIN], rows["observation"]))
    total, clipped = 0.0, 0
    for row in range(20):
        for i in range(STEPS):
            ratio = math.exp(float(now[row, i].detach() - rows[keys.CHAIN_LOG_PROB][row, i]))
            epsilon = low + (high - low) * math.expm1(3 * i / 3) / math.expm1(3)
            advantage = gamma ** (STEPS - 1 - i) * float(rows["advantage"][row])
            held = min(max(ratio, 1 - epsilon), 1 + epsilon)
            total += min(ratio * advantage, held * advantage)
            clipped += abs(ratio - 1) > epsilon
    assert float(out["loss_objective"].detach()) == pytest.approx(-total / (20 * STEPS), rel=1e-6)
    assert float(out["clip_fraction"]) == pytest.approx(clipped / (20 * STEPS))
    assert 0 < clipped < 20 * STEPS


def test_the_kl_of_the_chain_to_the_bases_by_hand() -> None:
    made = chain()
    td = batch(made, 3, 2)
    with torch.no_grad():
        made.tuned.velocity.theta.add_(0.25)
    expected = 0.0
    for t in (0.0, 0.25, 0.5, 0.75):
        moved = 0.25 * (1.0 + 0.5 * 0.4**2 * t) / STEPS
        expected += 4 * moved**2 / (2 * 0.4**2 * (1.0 - t) / STEPS)
    loss = ChainPPOLoss(made, critic(), kl_coef=0.5)
    out = loss(td)
    assert "loss_kl" in loss.out_keys
    assert float(out["loss_kl"].detach()) == pytest.approx(0.5 * expected, rel=1e-6)
    (grad,) = torch.autograd.grad(out["loss_kl"], made.tuned.velocity.theta)
    assert float(grad) == pytest.approx(0.5 * 2 * expected / 0.25, rel=1e-6)


def test_coefficients_may_be_scheduled_and_terms_without_weight_are_left_out() -> None:
    made = chain()
    td = batch(made, 3, 2, drift=0.5)
    loss = ChainPPOLoss(made, critic())
    out = loss(td)
    assert set(out.keys()) == set(loss.out_keys)
    assert set(loss.out_keys) == {"loss_objective", "loss_critic", "clip_fraction", "kl_approx"}
    loss.clip_epsilon, loss.critic_coeff, loss.figures = 0.9, 2.0, False
    later = loss(td)
    assert set(later.keys()) == {"loss_objective", "loss_critic"}
    assert not torch.equal(later["loss_objective"], out["loss_objective"])
    torch.testing.assert_close(later["loss_critic"], 2.0 * out["loss_critic"])


def test_rows_that_do_not_count_are_dropped() -> None:
    made = chain()
    td = batch(made, 4, 3)
    loss = ChainPPOLoss(made, critic())
    kept = torch.rand(4, 3) < 0.6
    expected = loss(td[kept])
    td["shifted_valid"] = kept.unsqueeze(-1)
    td["advantage"][~kept] = 1e3
    out = loss(td)
    for name in ("loss_objective", "loss_critic"):
        torch.testing.assert_close(out[name], expected[name])


def test_nested_keys() -> None:
    made, plain = chain(key=("a", "obs")), batch(chain(), 3, 2)
    loss = ChainPPOLoss(made, critic(("a", "obs"), ("a", "value")))
    names = {"action": ("a", "chain"), "sample_log_prob": ("a", "logp"), "value": ("a", "value")}
    loss.set_keys(**names, advantage=("a", "adv"), value_target=("a", "target"))
    inner = {
        "obs": plain["observation"],
        "chain": plain[keys.CHAIN],
        "logp": plain[keys.CHAIN_LOG_PROB],
        "adv": plain["advantage"],
        "target": plain["value_target"],
    }
    td = TensorDict({"a": inner}, [3, 2])
    assert set(loss.in_keys) == {("a", name) for name in inner}
    expected = ChainPPOLoss(chain(), critic())(plain)
    for name, value in loss(td).items():
        torch.testing.assert_close(value, expected[name])
    recorder = ChainRecorder(made, chain_key=("a", "chain"), log_prob_key=("a", "logp"))
    recorder.decode_from(td[:, 0], torch.randn(3, *SHAPE).double())
    written = recorder.write(TensorDict(batch_size=[3, 1]))
    assert {("a", "chain"), ("a", "logp")} <= set(written.keys(True, True))


def test_bad_options_keys_and_data_are_refused() -> None:
    made = chain()
    for option in ({"clip_first": 1.0}, {"clip_epsilon": 0.0}, {"gamma_denoising": 1.5}):
        with pytest.raises(ConfigurationError, match=f"expected {next(iter(option))} in"):
            ChainPPOLoss(made, critic(), **option)
    with pytest.raises(ConfigurationError, match="expected a chain each of whose steps draws"):
        ChainPPOLoss(chain(noise=0.0), critic())
    loss, td = ChainPPOLoss(made, critic()), batch(made, 2, 2)
    for key in (keys.CHAIN, keys.CHAIN_LOG_PROB, "advantage", "value_target", "observation"):
        with pytest.raises(KeyMismatchError, match=f"reads '{key}'"):
            loss(td.exclude(key))
