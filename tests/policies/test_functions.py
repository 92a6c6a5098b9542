"""Any function, or any module with a noise entry, as a policy."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn

from modereg.errors import (
    ConfigurationError,
)
from modereg.policies import (
    as_generative_policy,
)
from modereg.testing import CountingEnv, check_generative_policy
from tests.policies.made import OBS, SHAPE, data, policy, shift


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


def test_a_module_is_given_its_own_type_and_returns_the_noises() -> None:
    torch.manual_seed(0)
    net, td, noise = Net(), data(6), torch.randn(6, *SHAPE)
    exact = policy(net).decode_from(td, noise)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.bfloat16, 0.05), (torch.float16, 0.01)):
        chunk = policy(copy.deepcopy(net).to(dtype), example=td).decode_from(td, noise)
        assert chunk.dtype == torch.float32
        torch.testing.assert_close(chunk, exact, rtol=tolerance, atol=tolerance)


class Flow(nn.Module):
    """The calling convention of TorchRL's flow-matching policy: noise is drawn where it misses."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.actions, self.field = actions, nn.Linear(OBS + actions, actions)

    def forward(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        x = torch.randn(*observation.shape[:-1], self.actions) if noise is None else noise
        for _ in range(4):
            x = x + self.field(torch.cat([observation, x], -1)) / 4
        return x


class Drawing(TensorDictModule):
    """Noise is an in_key, and missing noise is drawn."""

    def forward(self, tensordict: TensorDict) -> TensorDict:
        if "noise" not in tensordict:
            tensordict = tensordict.set("noise", torch.randn(*tensordict.shape, 2))
        return super().forward(tensordict)


def test_a_module_with_a_noise_entry_is_a_policy_without_an_adapter() -> None:
    net = Flow(2)
    module = Drawing(net, in_keys=["observation", "noise"], out_keys=["action"])
    td = data(5)
    made = as_generative_policy(module, example=td)
    assert (made.noise_shape, made.chunk_shape) == ((2,), (1, 2))
    assert made.in_keys == ["observation", "noise"]
    noise = torch.randn(5, 2)
    expected = net(td["observation"], noise).unsqueeze(-2)
    assert torch.equal(made.decode_from(td, noise), expected)
    assert "action" not in td
    assert {id(p) for p in made.parameters()} == {id(p) for p in net.parameters()}
    env = CountingEnv((9, 9, 9), start_noise=1.0)
    check_generative_policy(made, env.reset())
    assert (
        made.fingerprint()
        != as_generative_policy(
            Drawing(Flow(2), in_keys=["observation", "noise"], out_keys=["action"]), example=td
        ).fingerprint()
    )


def test_shapes_of_a_module_may_be_given_and_keys_renamed() -> None:
    module = TensorDictModule(
        lambda w, o: w.flatten(-2)[..., :4] + o[..., :1],
        in_keys=[("latent", "w"), ("agent", "state")],
        out_keys=["extra", ("out", "chunk")][1:],
    )
    made = as_generative_policy(
        module, noise_key=("latent", "w"), noise_shape=(3, 2), chunk_shape=(2, 2)
    )
    td = TensorDict({"agent": {"state": torch.randn(5, 3)}}, [5])
    assert made(td)["action_chunk"].shape == (5, 2, 2)
    found = as_generative_policy(
        module, noise_key=("latent", "w"), noise_shape=(3, 2), example=td.exclude("action_chunk")
    )
    assert (found.noise_shape, found.chunk_shape) == ((3, 2), (1, 4))


def test_what_a_module_lacks_is_named() -> None:
    module = TensorDictModule(Flow(2), in_keys=["observation", "nois"], out_keys=["action"])
    with pytest.raises(ConfigurationError, match="reads the noise 'noise'.*Did you mean 'nois'"):
        as_generative_policy(module, example=data(2))
    module = TensorDictModule(Flow(2), in_keys=["observation", "noise"], out_keys=["action"])
    with pytest.raises(ConfigurationError, match="expected chunk_shape, or an example"):
        as_generative_policy(module)
    strict = TensorDictModule(lambda o, w: w.sin(), in_keys=module.in_keys, out_keys=["action"])
    with pytest.raises(ConfigurationError, match="give noise_shape if it does not draw"):
        as_generative_policy(strict, example=data(2))
    with pytest.raises(ConfigurationError, match="no in_keys"):
        as_generative_policy(module, in_keys=["observation"], chunk_shape=(1, 2))
    several = TensorDictModule(lambda w: (w, w), in_keys=["noise"], out_keys=["mean", "last"])
    with pytest.raises(ConfigurationError, match="name its action_key"):
        as_generative_policy(several, chunk_shape=(1, 2))
    named = as_generative_policy(several, chunk_shape=(1, 2), action_key="last")
    assert named(TensorDict({}, [3]))["action_chunk"].shape == (3, 1, 2)
    with pytest.raises(ConfigurationError, match="in_keys and chunk_shape for a function"):
        as_generative_policy(shift, in_keys=["observation"])


@pytest.mark.parametrize("name", ["FlowMatchingPolicy", "OneStepPolicy"])
def test_torchrls_own_policies_keep_the_convention(name: str) -> None:
    kind = getattr(pytest.importorskip("torchrl.modules"), name, None)
    if kind is None:
        pytest.skip(f"this torchrl has no {name}")
    assert issubclass(kind, TensorDictModuleBase)


def test_a_name_and_a_version_stand_for_the_code() -> None:
    lock = threading.Lock()

    def guarded(noise: Tensor, observation: Tensor) -> Tensor:
        with lock:
            return noise

    with pytest.raises(ConfigurationError, match=r"reads a lock.*name='my_policy', version='1'"):
        policy(guarded).fingerprint()
    first = policy(guarded, name="guarded", version="1").fingerprint()
    assert first == policy(shift, name="guarded", version="1").fingerprint()
    assert first != policy(guarded, name="guarded", version="2").fingerprint()
    with pytest.raises(ConfigurationError, match="name and version together"):
        policy(guarded, name="guarded")
