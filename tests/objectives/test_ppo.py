"""The lean PPO objective against TorchRL's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torchrl.modules import ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.networks import MLP
from modereg.objectives import LeanPPOLoss
from modereg.steering import SteeringPolicy

CODES, OBS, SHAPE = 3, 5, (4, 2)


def networks() -> tuple[SteeringPolicy, ValueOperator]:
    actor = SteeringPolicy(["observation"], OBS, CODES, SHAPE, hidden=(16,))
    for parameter in actor.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    critic = ValueOperator(MLP(OBS + CODES, 1, (16,)), ["observation", "latent_features"])
    return actor, critic


def batch(actor: SteeringPolicy, *size: int) -> TensorDict:
    codes = torch.eye(CODES)[torch.randint(CODES, size)]
    td = TensorDict({"observation": torch.randn(*size, OBS), "latent_features": codes}, size)
    td = td.to(next(actor.parameters()).dtype)
    with torch.no_grad():
        actor(td)
    drift = 0.3 * torch.randn_like(td["action_log_prob"])
    td["action_log_prob"] = td["action_log_prob"] + drift
    for key in ("advantage", "value_target"):
        td[key] = torch.randn(*size, 1, dtype=drift.dtype)
    return td


def losses_and_gradients(
    loss: nn.Module, td: TensorDict, parameters: list[nn.Parameter]
) -> tuple[TensorDict, list[torch.Tensor]]:
    out = loss(td)
    total = sum(value for key, value in out.items() if key.startswith("loss_"))
    return out, list(torch.autograd.grad(total, parameters))


@given(
    seed=st.integers(0, 10_000),
    epsilon=st.sampled_from([0.05, 0.2, 0.5]),
    entropy_coeff=st.sampled_from([0.01, 0.3]),
    critic_coeff=st.sampled_from([0.5, 1.0]),
    critic_loss=st.sampled_from(["smooth_l1", "l2", "l1"]),
)
def test_losses_and_gradients_equal_torchrl_s(
    seed: int,
    epsilon: float,
    entropy_coeff: float,
    critic_coeff: float,
    critic_loss: str,
) -> None:
    torch.manual_seed(seed)
    actor, critic = networks()
    td = batch(actor, 33)
    parameters = [*actor.parameters(), *critic.parameters()]
    options = {
        "clip_epsilon": epsilon,
        "entropy_coeff": entropy_coeff,
        "critic_coeff": critic_coeff,
        "loss_critic_type": critic_loss,
    }
    own, own_grad = losses_and_gradients(LeanPPOLoss(actor, critic, **options), td, parameters)
    ref, ref_grad = losses_and_gradients(ClipPPOLoss(actor, critic, **options), td, parameters)
    for key in list(own.keys()):
        torch.testing.assert_close(own[key], ref[key], msg=key)
    for ours, theirs in zip(own_grad, ref_grad, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("key", [("collector", "mask"), "shifted_valid"])
@pytest.mark.parametrize("last", [(), (1,)])
def test_rows_that_do_not_count_are_dropped_as_in_torchrl(key: object, last: tuple) -> None:
    actor, critic = networks()
    td = batch(actor, 6, 5)
    td[key] = (torch.rand(6, 5) < 0.6).view(6, 5, *last)
    parameters = [*actor.parameters(), *critic.parameters()]
    own, own_grad = losses_and_gradients(LeanPPOLoss(actor, critic), td, parameters)
    ref, ref_grad = losses_and_gradients(ClipPPOLoss(actor, critic), td, parameters)
    for name in ("loss_objective", "loss_critic", "loss_entropy"):
        torch.testing.assert_close(own[name], ref[name])
    for ours, theirs in zip(own_grad, ref_grad, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_double_precision_to_rounding() -> None:
    actor, critic = (module.double() for module in networks())
    td = batch(actor, 20)
    own, ref = LeanPPOLoss(actor, critic)(td), ClipPPOLoss(actor, critic).double()(td)
    torch.testing.assert_close(own["loss_critic"], ref["loss_critic"], atol=1e-14, rtol=1e-12)
    torch.testing.assert_close(own["loss_objective"], ref["loss_objective"], atol=1e-7, rtol=0)


def test_the_kl_term_is_the_divergence_from_the_base_policy() -> None:
    actor, critic = networks()
    td = batch(actor, 20)
    out = LeanPPOLoss(actor, critic, kl_coef=0.5)(td)
    base = actor.distribution(td).base_dist
    standard = Normal(torch.zeros_like(base.loc), torch.ones_like(base.scale))
    expected = kl_divergence(Independent(base, 2), Independent(standard, 2)).mean()
    torch.testing.assert_close(out["loss_kl"], 0.5 * expected)
    assert "loss_kl" in LeanPPOLoss(actor, critic, kl_coef=0.5).out_keys


def test_terms_without_weight_are_left_out() -> None:
    actor, critic = networks()
    loss = LeanPPOLoss(actor, critic, entropy_coeff=0.0)
    out = loss(batch(actor, 8))
    assert set(out.keys()) == set(loss.out_keys)
    assert set(out.keys()) == {
        "loss_objective",
        "loss_critic",
        "entropy",
        "clip_fraction",
        "kl_approx",
    }


def test_coefficients_may_be_scheduled() -> None:
    actor, critic = networks()
    loss, td = LeanPPOLoss(actor, critic, entropy_coeff=0.1, kl_coef=0.1), batch(actor, 8)
    before = loss(td)
    loss.entropy_coeff, loss.kl_coef, loss.critic_coeff = 0.2, 0.2, 2.0
    after = loss(td)
    for key in ("loss_entropy", "loss_kl", "loss_critic"):
        torch.testing.assert_close(after[key], 2 * before[key])


def test_parameters_are_those_of_the_networks_and_all_learn() -> None:
    actor, critic = networks()
    loss = LeanPPOLoss(actor, critic, kl_coef=0.01)
    assert {id(p) for p in loss.parameters()} == {
        id(p) for p in [*actor.parameters(), *critic.parameters()]
    }
    out = loss(batch(actor, 64))
    sum(value for key, value in out.items() if key.startswith("loss_")).backward()
    assert all((p.grad != 0).any() for p in loss.parameters())
    assert not out["entropy"].requires_grad


def test_nested_keys_through_gae() -> None:
    actor = SteeringPolicy(
        [("a", "obs")],
        OBS,
        CODES,
        SHAPE,
        hidden=(8,),
        latent_key=("a", "code"),
        action_key=("a", "w"),
    )
    critic = TensorDictModule(MLP(OBS, 1, (8,)), [("a", "obs")], [("a", "value")])
    inner = {"obs": torch.randn(6, 4, OBS), "code": torch.eye(CODES)[torch.randint(CODES, (6, 4))]}
    td = TensorDict({"a": inner, "next": {"a": {"obs": torch.randn(6, 4, OBS)}}}, [6, 4])
    td["next", "a", "pay"] = torch.randn(6, 4, 1)
    for key in ("done", "terminated"):
        td["next", key] = torch.zeros(6, 4, 1, dtype=torch.bool)
    with torch.no_grad():
        actor(td)
    names = {"advantage": ("a", "adv"), "value_target": ("a", "target"), "value": ("a", "value")}
    gae = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    gae.set_keys(**names, reward=("a", "pay"))
    gae(td)
    names |= {"action": ("a", "w"), "sample_log_prob": ("a", "w_log_prob"), "reward": ("a", "pay")}
    own, ref = LeanPPOLoss(actor, critic), ClipPPOLoss(actor, critic)
    own.set_keys(**names)
    ref.set_keys(**names)
    assert ("a", "w_log_prob") in own.in_keys
    flat = td.reshape(-1)
    for key in ("loss_objective", "loss_critic", "loss_entropy"):
        torch.testing.assert_close(own(flat)[key], ref(flat)[key])


def test_any_actor_with_get_dist_and_any_critic() -> None:
    actor, _ = networks()
    hidden = TensorDictModule(nn.Linear(OBS, 4), ["observation"], ["hidden"])
    critic = TensorDictSequential(
        hidden, TensorDictModule(nn.Linear(4, 1), ["hidden"], ["state_value"])
    )
    td = batch(actor, 16)
    plain = type(actor).__mro__[1](*actor.module)  # a ProbabilisticTensorDictSequential
    own, ref = LeanPPOLoss(plain, critic)(td), ClipPPOLoss(plain, critic)(td)
    for key in ("loss_objective", "loss_critic", "loss_entropy"):
        torch.testing.assert_close(own[key], ref[key])
    assert "hidden" not in list(td.keys())


def test_bad_options_keys_and_data_are_refused() -> None:
    actor, critic = networks()
    with pytest.raises(ConfigurationError, match="clip_epsilon in"):
        LeanPPOLoss(actor, critic, clip_epsilon=1.0)
    with pytest.raises(ConfigurationError, match="loss_critic_type"):
        LeanPPOLoss(actor, critic, loss_critic_type="huber")
    loss, td = LeanPPOLoss(actor, critic), batch(actor, 4)
    with pytest.raises(ValueError, match="foo is not an accepted tensordict key"):
        loss.set_keys(foo="bar")
    for key in ("action", "action_log_prob", "advantage", "value_target", "latent_features"):
        with pytest.raises(KeyMismatchError, match=f"reads '{key}'"):
            loss(td.exclude(key))
    with pytest.raises(ConfigurationError, match="set_keys"):
        loss.in_keys = ["x"]
    with pytest.raises(ConfigurationError, match="out_keys"):
        loss.out_keys = ["x"]


def test_it_compiles() -> None:
    actor, critic = networks()
    loss, td = LeanPPOLoss(actor, critic, kl_coef=0.1), batch(actor, 16)
    compiled = torch.compile(loss, backend="aot_eager")
    expected, out = loss(td), compiled(td)
    for key in list(expected.keys()):
        torch.testing.assert_close(out[key], expected[key])
