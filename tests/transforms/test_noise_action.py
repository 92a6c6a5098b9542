"""NoiseAction: the action is the noise of a frozen policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from tensordict import TensorDictBase
from torchrl.data import Bounded, Unbounded
from torchrl.envs import Compose, TransformedEnv
from torchrl.envs.utils import check_env_specs

from modereg.errors import (
    ConfigurationError,
    KeyMismatchError,
    ShapeError,
    StochasticSamplerError,
)
from modereg.policies import GenerativePolicy, as_generative_policy
from modereg.testing import CountingEnv, TinyPolicy
from modereg.transforms import ActionChunk, NoiseAction

CHUNK = (4, 2)


def steered(
    policy: GenerativePolicy | None = None,
    basis: torch.Tensor | None = None,
    lengths: Sequence[int] = (9, 9, 9),
) -> TransformedEnv:
    env = TransformedEnv(CountingEnv(lengths), ActionChunk(CHUNK[0]))
    return env.append_transform(NoiseAction(policy or TinyPolicy(3, CHUNK), basis))


@pytest.mark.parametrize(
    ("decode", "match"),
    [
        (lambda w, o: None, "got NoneType; let it return the chunk alone"),
        (lambda w, o: (w, o), "got tuple; let it"),
        (lambda w, o: w.numpy(), r"got ndarray of shape \(2, 4, 2\)"),
        (lambda w, o: w[:1], r"got Tensor of shape \(1, 4, 2\)"),
    ],
)
def test_what_a_policy_decodes_is_a_tensor_of_its_shape(decode: Callable, match: str):
    policy = as_generative_policy(
        decode, in_keys=["observation"], noise_shape=(4, 2), chunk_shape=(4, 2)
    )
    env = TransformedEnv(CountingEnv([5, 5]), Compose(ActionChunk(4), NoiseAction(policy)))
    with pytest.raises(ShapeError, match=match):
        env.reset()


class TakesChunks(CountingEnv):
    """Takes a chunk as its action, and scales it in place."""

    def __init__(self) -> None:
        super().__init__([5, 5])
        self.action_spec = Unbounded((2, 4, 2))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        chunk = tensordict["action"].mul_(3)
        return super()._step(tensordict.copy().set("action", chunk[:, 0]))


def test_an_environment_may_change_the_chunk_that_it_is_given():
    policy = as_generative_policy(
        lambda w, o: w / 2, in_keys=["observation"], noise_shape=(4, 2), chunk_shape=(4, 2)
    )
    env = TransformedEnv(TakesChunks(), NoiseAction(policy))
    out = env.step(env.reset().set("action", torch.ones(2, 4, 2)))
    assert (out["action"] == 1).all()
    assert (out["next", "action_chunk"] == 0.5).all()


def test_a_random_action_is_standard_normal_and_decodes_as_the_policy_does():
    env, policy = steered(lengths=[9] * 2000), TinyPolicy(3, CHUNK)
    td = env.rand_action(env.reset())
    assert td["action"].shape == (2000, *CHUNK)
    assert abs(td["action"].mean()) < 0.03
    assert abs(td["action"].std() - 1) < 0.03
    expected = policy.decode_from(td, td["action"])
    out = env.step(td)
    torch.testing.assert_close(out["next", "action_chunk"], expected)
    torch.testing.assert_close(out["next", "executed_chunk"], expected.clamp(-0.5, 0.5))
    total = expected.clamp(-0.5, 0.5).sum(1)
    torch.testing.assert_close(out["next", "observation"][:, 1:], total)


def test_the_agents_action_stays_what_it_wrote_and_no_graph_is_built():
    env = steered()
    noise = torch.randn(3, *CHUNK, requires_grad=True)
    out = env.step(env.reset().set("action", noise))
    assert out["action"] is noise
    assert not any(value.requires_grad for value in out["next"].values())


def test_the_environment_holds_none_of_the_policy():
    policy = TinyPolicy(3, CHUNK)
    env = steered(policy)
    env.rollout(2)
    assert not env.state_dict()
    assert not list(env.parameters())
    assert env.transform[-1].policy is policy


def test_the_policys_noise_may_have_another_shape_than_its_chunk():
    env = steered(TinyPolicy(3, CHUNK, noise_shape=(5,)))
    assert env.rollout(2)["action"].shape == (3, 2, 5)


def test_in_a_subspace_the_rest_of_the_noise_is_drawn_and_the_whole_is_standard_normal():
    basis = torch.linalg.qr(torch.randn(8, 3))[0]
    env = steered(basis=basis, lengths=[9] * 4000)
    td = env.rand_action(env.reset())
    assert td["action"].shape == (4000, 3)
    out = env.step(td)
    noise = out["next", "noise"].flatten(1)
    torch.testing.assert_close(noise @ basis, td["action"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(noise.T.cov(), torch.eye(8), atol=0.08, rtol=0)
    again = env.step(env.reset().set("action", td["action"]))["next", "noise"].flatten(1)
    assert not torch.allclose(again, noise)
    chunk = TinyPolicy(3, CHUNK).decode_from(td, noise.view(-1, *CHUNK))
    torch.testing.assert_close(out["next", "action_chunk"], chunk)


@pytest.mark.parametrize("basis", [torch.ones(8, 2), 2 * torch.eye(8)])
def test_a_basis_that_is_not_orthonormal_is_refused(basis: torch.Tensor):
    with pytest.raises(ConfigurationError, match="orthonormal"):
        NoiseAction(TinyPolicy(3, CHUNK), basis)


@pytest.mark.parametrize("shape", [(7, 2), (8, 9), (8,)])
def test_a_basis_of_a_wrong_shape_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ShapeError, match=r"shape \(8, k\)"):
        NoiseAction(TinyPolicy(3, CHUNK), torch.zeros(shape))


def test_a_policy_of_another_horizon_or_without_a_chunk_is_refused_on_attaching():
    with pytest.raises(ShapeError, match=r"horizon=6"):
        steered(TinyPolicy(3, (6, 2)))
    with pytest.raises(ShapeError, match="put ActionChunk"):
        TransformedEnv(CountingEnv([3]), NoiseAction(TinyPolicy(3, CHUNK)))


def test_a_missing_observation_is_refused_on_attaching():
    with pytest.raises(KeyMismatchError, match=r"\['image'\]"):
        steered(TinyPolicy(3, CHUNK, observation_keys=["image"]))


def test_noise_of_a_wrong_shape_is_refused():
    env = steered()
    with pytest.raises(ShapeError, match=r"noise of shape \(3, 4, 2\) under 'action'"):
        env.step(env.reset().set("action", torch.zeros(3, 8)))


def test_a_stochastic_policy_is_refused_at_the_first_reset():
    policy = as_generative_policy(
        lambda noise, observation: noise + torch.randn_like(noise),
        in_keys=["observation"],
        noise_shape=CHUNK,
        chunk_shape=CHUNK,
    )
    with pytest.raises(StochasticSamplerError, match="deterministic sampler"):
        steered(policy).reset()


def test_the_probe_leaves_torchs_generator_alone():
    env = steered()
    state = torch.get_rng_state()
    env.reset()
    assert torch.equal(torch.get_rng_state(), state)


def test_entries_can_be_left_out():
    env = TransformedEnv(CountingEnv([9]), ActionChunk(4, executed_key=None))
    env.append_transform(NoiseAction(TinyPolicy(3, CHUNK), chunk_key=None))
    assert not {"executed_chunk", "action_chunk"} & set(env.rollout(2)["next"].keys())


def test_the_noise_may_have_another_type_than_the_action():
    env = TransformedEnv(CountingEnv([9], dtype=torch.float64), ActionChunk(4))
    policy = as_generative_policy(
        lambda noise, observation: noise,
        in_keys=["observation"],
        noise_shape=CHUNK,
        chunk_shape=CHUNK,
    )
    env.append_transform(NoiseAction(policy, dtype=torch.float32))
    data = env.rollout(2)
    assert data["action"].dtype == torch.float32
    assert data["next", "action_chunk"].dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounded_noise_is_drawn_from_a_clipped_normal(dtype: torch.dtype) -> None:
    """For losses whose policies need bounds; N(0, I) clipped at b, whatever is done to the spec."""
    bound = 0.75
    steered = TransformedEnv(
        CountingEnv([9] * 500, dtype=dtype),
        Compose(ActionChunk(4, horizon=4), NoiseAction(TinyPolicy(3, dtype=dtype), bound=bound)),
    )
    spec = steered.action_spec
    assert isinstance(spec, Bounded)
    assert (float(spec.space.low.max()), float(spec.space.high.min())) == (-bound, bound)
    expected = torch.randn(2000, 8, dtype=dtype).clamp(-bound, bound)
    for drawn in (
        steered.rand_action(steered.reset()).get("action"),
        spec.clone().to("cpu").rand(),
        spec[:400].rand(),
        spec.rand((2,)).flatten(0, 1),
        steered.full_action_spec.clone().rand().get("action"),
    ):
        assert drawn.dtype == dtype
        assert float(drawn.abs().max()) == pytest.approx(bound)
        assert float(drawn.std()) == pytest.approx(float(expected.std()), abs=0.05)
        clipped = (drawn.abs() == bound).double().mean()
        assert float(clipped) == pytest.approx(0.453, abs=0.05)
    check_env_specs(steered)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigurationError, match="expected a bound above 0 and finite"):
            NoiseAction(TinyPolicy(3), bound=wrong)


def test_a_residual_moves_what_is_played_and_sees_what_the_agent_wrote():
    def moves(tensordict: TensorDictBase, chunk: torch.Tensor) -> torch.Tensor:
        return chunk + tensordict["observation"][:, None, :1] + tensordict["action"].mean()

    policy = TinyPolicy(3, CHUNK)
    env = TransformedEnv(CountingEnv([9, 9, 9]), ActionChunk(CHUNK[0]))
    env = env.append_transform(NoiseAction(policy, residual=moves))
    td = env.rand_action(env.reset())
    out = env.step(td)
    expected = moves(td, policy.decode_from(td, td["action"]))
    torch.testing.assert_close(out["next", "action_chunk"], expected)
    torch.testing.assert_close(out["next", "executed_chunk"], expected.clamp(-0.5, 0.5))
    env.transform[-1].set_residual(None)
    plain = env.step(td.exclude("next"))
    torch.testing.assert_close(plain["next", "action_chunk"], policy.decode_from(td, td["action"]))


def test_a_residual_is_no_part_of_the_environment():
    env = TransformedEnv(CountingEnv([9, 9, 9]), ActionChunk(CHUNK[0]))
    network = torch.nn.Linear(2, 2)
    env = env.append_transform(NoiseAction(TinyPolicy(3, CHUNK)))
    env.transform[-1].set_residual(network)
    assert env.transform.transforms[-1].residual is network
    assert not list(env.parameters())


def test_another_decoder_plays_in_the_policys_place_in_clones_too() -> None:
    policy, other = TinyPolicy(3, CHUNK), TinyPolicy(3, CHUNK, seed=1)
    env = steered(policy)
    clone = env.transform[-1].clone()
    env.transform[-1].set_decoder(other)
    assert clone.decoder is other
    root = env.rand_action(env.reset())
    chunk = env.step(root.clone())["next", "action_chunk"]
    assert torch.equal(chunk, other.decode_from(root, root["action"]))
    env.transform[-1].set_decoder(None)
    chunk = env.step(root.clone())["next", "action_chunk"]
    assert torch.equal(chunk, policy.decode_from(root, root["action"]))
    assert not list(env.parameters())
