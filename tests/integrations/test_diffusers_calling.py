"""Denoisers as people bring them: wrapped, compiled, in other types, with one flat condition."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

import modereg
from modereg.errors import ConfigurationError, ShapeError
from modereg.policies import freeze
from modereg.tasks import Avoid
from modereg.testing import check_generative_policy
from modereg_integrations.diffusers import DiffusersPolicy, Normalizer
from modereg_integrations.diffusers.calling import unwrap
from tests.integrations.unets import unet

pytestmark = pytest.mark.filterwarnings("ignore:.*kept in float32")

HORIZON = 8


class PassingOn(nn.Module):
    """Somebody's own wrapper, which passes on what it is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self.module(*arguments, **named)


class Adapting(nn.Module):
    """A wrapper with a layout of its own: it is no wrapper in this sense."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, sample: Tensor, timestep: Tensor, observation: Tensor) -> Tensor:
        constant = observation[:, None].expand(-1, sample.shape[1], -1)
        return self.module(torch.cat([sample, constant], -1).mT, timestep).sample.mT


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch.compile": lambda module: torch.compile(module, backend="eager"),
    "DataParallel": nn.DataParallel,
    "own": PassingOn,
    "two": lambda module: torch.compile(nn.DataParallel(module), backend="eager"),
}


def unet_policy(denoiser: nn.Module, actions: int, observed: int, **options: Any) -> Any:
    return DiffusersPolicy(
        denoiser,
        diffusers.DDIMScheduler(clip_sample=False),
        chunk_shape=(HORIZON, actions),
        observation_keys=["observation"] if observed else [],
        num_inference_steps=3,
        **options,
    ).requires_grad_(False)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("actions", "observed"), [(2, 6), (8, 0), (2, 3)])
def test_a_wrapped_unet_is_the_one_within(
    wrapper: str, actions: int, observed: int, tmp_path: Path
) -> None:
    network = unet(actions + observed, actions)
    plain = unet_policy(network, actions, observed)
    wrapped = unet_policy(WRAPPERS[wrapper](network), actions, observed)
    assert unwrap(wrapped.denoiser) is network
    inputs = [torch.randn(4, HORIZON, actions), *([torch.rand(4, observed)] if observed else [])]
    torch.testing.assert_close(wrapped.decode(*inputs), plain.decode(*inputs))
    assert wrapped.fingerprint() == plain.fingerprint()
    wrapped.save_pretrained(tmp_path / "policy")
    loaded = DiffusersPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.fingerprint() == plain.fingerprint()
    torch.testing.assert_close(loaded.decode(*inputs), plain.decode(*inputs))


def test_a_wrapper_with_a_layout_of_its_own_is_called_in_it() -> None:
    network = unet(2 + 3, 2)
    plain, adapted = unet_policy(network, 2, 3), unet_policy(Adapting(network), 2, 3)
    inputs = (torch.randn(4, HORIZON, 2), torch.rand(4, 3))
    torch.testing.assert_close(adapted.decode(*inputs), plain.decode(*inputs))


def mlp(**options: Any) -> DiffusersPolicy:
    torch.manual_seed(0)
    policy = DiffusersPolicy.untrained(
        observation_shapes={"observation": (4,)}, chunk_shape=(8, 2), hidden=(32, 32), **options
    )
    policy.fit_normalizer(0.01 * torch.randn(64, 8, 2), torch.rand(64, 4))
    return freeze(policy)


def test_a_compiled_mlp_decodes_alike_and_is_called_compiled() -> None:
    plain, compiled = mlp(), mlp()
    calls = []

    def backend(graph: Any, _: Any) -> Any:
        calls.append(graph)
        return graph.forward

    compiled.denoiser = torch.compile(compiled.denoiser, backend=backend)
    inputs = (torch.randn(4, 8, 2), torch.rand(4, 4))
    torch.testing.assert_close(compiled.decode(*inputs), plain.decode(*inputs))
    assert compiled.fingerprint() == plain.fingerprint()
    assert calls


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_type_decode_clone_save_and_steer(
    dtype: torch.dtype, whole: bool, tmp_path: Path
) -> None:
    exact, policy = mlp(), mlp()
    (policy if whole else policy.denoiser).to(dtype)
    policy.save_pretrained(tmp_path / "policy")
    loaded = freeze(DiffusersPolicy.from_pretrained(tmp_path / "policy"))
    assert next(loaded.denoiser.parameters()).dtype == dtype
    noise, observation = torch.randn(64, 8, 2), torch.rand(64, 4)
    expected = exact.decode(noise, observation)
    for made in (policy, loaded):
        chunk = made.decode(noise, observation)
        assert chunk.dtype == torch.float32
        assert (chunk - expected).abs().max() <= 0.05 * expected.abs().max()
        loss = made.cloning_loss(chunk, observation)
        assert loss.dtype == torch.float32
        env, steering, _ = modereg.wrap(
            Avoid(4), made, modereg.Layout(max_steps=96, feature_dims=(2, 3)), num_modes=4
        )
        assert env.rollout(2, steering)["next", "action_chunk"].dtype == torch.float32


def test_a_default_type_of_float64_decodes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        policy = mlp()
    finally:
        torch.set_default_dtype(torch.float32)
    check_generative_policy(policy, TensorDict({"observation": torch.rand(5, 4)}, [5]))


@pytest.mark.parametrize("options", [{}, {"method": "flow"}])
def test_autocast_decodes_within_its_tolerance_and_through_the_environment(
    options: dict[str, Any],
) -> None:
    exact, fast = mlp(**options), mlp(**options)
    fast.autocast = torch.bfloat16
    td, noise = TensorDict({"observation": torch.rand(256, 4)}, [256]), torch.randn(256, 8, 2)
    expected, chunk = exact.decode_from(td, noise), fast.decode_from(td, noise)
    assert chunk.dtype == torch.float32
    assert not torch.equal(chunk, expected)
    assert (chunk - expected).abs().max() <= 0.02 * expected.abs().max()
    rollouts = []
    for policy in (exact, fast):
        env, *_ = modereg.wrap(Avoid(8), policy, modereg.Layout(max_steps=96), num_modes=4)
        env.set_seed(0)
        torch.manual_seed(0)
        rollouts.append(env.rollout(2))
    slow, quick = (rollout["next", "action_chunk"][:, 0] for rollout in rollouts)
    assert quick.dtype == torch.float32
    assert (quick - slow).abs().max() <= 0.02 * slow.abs().max()


class ConditionalUnet(nn.Module):
    """The calling convention of Diffusion Policy's ConditionalUnet1D, small, modulated by FiLM."""

    def __init__(self, input_dim: int, global_cond_dim: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(input_dim, 16, 3, padding=1)
        self.film = nn.Linear(global_cond_dim + 1, 32)
        self.last = nn.Conv1d(16, input_dim, 3, padding=1)
        self.seen: Tensor | None = None

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        local_cond: Tensor | None = None,
        global_cond: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        assert local_cond is None
        self.seen = global_cond
        time = torch.as_tensor(timestep).expand(len(sample)).to(sample)[:, None] / 100
        scale, shift = self.film(torch.cat([global_cond, time], -1)).unsqueeze(-1).chunk(2, 1)
        return self.last((self.first(sample.mT) * (1 + scale) + shift).tanh()).mT


@pytest.mark.parametrize("steps", [1, 2])
def test_global_cond_is_every_observation_flat_in_order_and_step_by_step(
    steps: int, tmp_path: Path
) -> None:
    network = ConditionalUnet(2, steps * (3 + 4))
    normalizer = Normalizer([(3,), (2, 2)], 2, "meanstd")  # of mean 0 and deviation 1
    options: dict[str, Any] = {
        "chunk_shape": (HORIZON, 2),
        "observation_keys": ["desired_goal", ("agent", "state")],
        "observation_steps": steps,
        "num_inference_steps": 4,
        "normalizer": normalizer,
        "global_cond": True,
    }
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    policy = freeze(DiffusersPolicy(network, scheduler, **options))
    history = () if steps == 1 else (steps,)
    goal, state = torch.randn(5, *history, 3), torch.randn(5, *history, 2, 2)
    policy.decode(torch.randn(5, HORIZON, 2), goal, state)
    if steps == 1:
        expected = torch.cat([goal, state.flatten(1)], -1)
    else:
        rows = [torch.cat([goal[:, i], state[:, i].flatten(1)], -1) for i in range(steps)]
        expected = torch.cat(rows, -1)
    assert torch.equal(network.seen, expected)
    observations = TensorDict({"desired_goal": goal, ("agent", "state"): state}, [5])
    check_generative_policy(policy, observations)
    loss = policy.requires_grad_().cloning_loss(torch.randn(5, HORIZON, 2), goal, state)
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    policy.save_pretrained(tmp_path / "policy")
    loaded = DiffusersPolicy.from_pretrained(tmp_path / "policy", denoiser=copy.deepcopy(network))
    assert loaded.global_cond
    noise = torch.randn(5, HORIZON, 2)
    assert torch.equal(loaded.decode(noise, goal, state), policy.decode(noise, goal, state))
    assert loaded.fingerprint() == policy.fingerprint()


def test_global_cond_where_it_can_not_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"got UNet1DModel with .* leave it out"):
        unet_policy(unet(5, 2), 2, 3, global_cond=True)
    with pytest.raises(ConfigurationError, match=r"ConditionalUnet with \[\]"):
        unet_policy(ConditionalUnet(2, 1), 2, 0, global_cond=True)


@pytest.mark.parametrize("wrong", [(5, 1), (5, 3), (5,), (1, 4), (5, 4, 4)])
def test_observations_that_would_broadcast_are_refused(wrong: tuple[int, ...]) -> None:
    policy = mlp()
    for call in (policy.decode, policy.cloning_loss):
        with pytest.raises(ShapeError, match=r"one observation \(4,\)"):
            call(torch.randn(5, 8, 2), torch.rand(wrong))
    bare = DiffusersPolicy(policy.denoiser, policy.scheduler, chunk_shape=(8, 2))
    if wrong[0] != 5:
        with pytest.raises(ShapeError, match=r"'observation' of shape \(5, ...\)"):
            bare.decode(torch.randn(5, 8, 2), torch.rand(wrong))
