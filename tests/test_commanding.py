"""A base policy that does as its code says, without the environment that it learned it in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from modereg import CommandedPolicy, as_generative_policy, keys
from modereg.checkpoints import Adapter, save_adapter
from modereg.errors import CheckpointError, ConfigurationError, KeyMismatchError, ShapeError
from modereg.estimators import CategoricalMI
from modereg.layout import Layout
from modereg.modes import edit_modes
from modereg.policies import DenoisingChain, GenerativePolicy
from modereg.priors import CategoricalPrior, NormalPrior
from modereg.residual import ChunkResidual, StepResidual
from modereg.testing import CountingEnv, TinyPolicy
from modereg.wrapping import SteeredEnv, make_steering, steer_env
from tests.policies.made import changed, flow

CODES = 3
LAYOUT = Layout(12, execute=3, offset=1)


def stacked() -> GenerativePolicy:
    """A policy that reads two observations."""
    return as_generative_policy(
        lambda noise, seen: 0.1 * noise + 0.01 * seen.sum((-2, -1))[..., None, None],
        in_keys=[keys.OBSERVATION],
        noise_shape=(4, 2),
        chunk_shape=(4, 2),
        observation_steps=2,
        name="stacked",
        version="1",
    )


def made(
    base: GenerativePolicy, layout: Layout = LAYOUT, *, moved: bool = False
) -> tuple[SteeredEnv, Adapter]:
    """Return a steered environment, and an adapter whose weights are not at their start."""
    torch.manual_seed(0)
    prior = CategoricalPrior(CODES)
    residual = None
    if moved:
        residual = ChunkResidual.at_zero(
            [keys.OBSERVATION], 3, CODES, torch.randn(2, 6), bound=1.0, offset=1, hidden=(8,)
        )
        torch.nn.init.normal_(residual.network.head.network.layers[-1].weight)
    env = steer_env(CountingEnv([5, 9, 12, 7]), base, prior, layout, residual)
    steering = make_steering(env, base, prior, hidden=(16,))
    torch.nn.init.normal_(steering.head.network.layers[-1].weight)
    steering.set_std(0.5)
    return env, Adapter(
        steering, None, prior, env.layout, "base", base.fingerprint(), residual=residual
    )


def test_stacks_may_have_the_names_of_the_observations() -> None:
    env, adapter = made(stacked())
    policy, root = CommandedPolicy(stacked(), adapter), env.reset()
    named = TensorDict(
        {
            keys.OBSERVATION: root[keys.stacked(keys.OBSERVATION)],
            keys.LATENT: root[keys.LATENT],
        },
        root.batch_size,
    )
    before = named.clone()
    assert torch.equal(policy.decode(named), policy.decode(root))
    assert (named == before).all()
    short = named.set(keys.OBSERVATION, named[keys.OBSERVATION][:, :1])
    with pytest.raises(ShapeError, match=r"the 2 last observations, got \(4, 1, 3\)"):
        policy.decode(short)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("kind", ["plain", "stacked", "basis"])
def test_it_plays_what_the_steered_environment_plays(kind: str, moved: bool) -> None:
    layout = LAYOUT if kind != "basis" else replace(LAYOUT, noise_basis=torch.eye(8)[:, :3])
    base = stacked() if kind == "stacked" else TinyPolicy(3)
    env, adapter = made(base, layout, moved=moved)
    policy = CommandedPolicy(base, adapter)
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        root = adapter.steering(env.reset())
        torch.manual_seed(1)  # what a basis leaves out is drawn
        played = env.step(root)["next", keys.CHUNK]
    torch.manual_seed(1)
    chunk = policy(root.clone())[keys.CHUNK]
    assert torch.equal(chunk, played)
    assert policy.played == slice(1, 4)
    executed = env.step(root)["next", keys.EXECUTED].shape
    assert chunk[:, policy.played].shape == executed


@pytest.mark.parametrize(("steps", "rank"), [(5, None), (2, None), (2, 2)])
def test_it_plays_trained_weights(steps: int, rank: int | None) -> None:
    base = flow()
    env, adapter = made(base)
    before = CommandedPolicy(base, adapter).decode(root := env.reset())
    chain = changed(DenoisingChain(base, steps, rank=rank))
    env.set_decoder(chain)
    adapter.tuned = chain.weights()
    policy = CommandedPolicy(base, adapter)
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        played = env.step(adapter.steering(root.clone()))["next", keys.CHUNK]
    assert torch.equal(policy.decode(root), played)
    assert not torch.equal(played, before)
    adapter.tuned = edit_modes(adapter, names={2: "left"}).tuned
    assert torch.equal(CommandedPolicy(base, adapter).decode(root), played)


@pytest.mark.parametrize("code", [None, 2])
def test_it_corrects_each_action_as_the_steered_environment_does(code: int | None) -> None:
    base = TinyPolicy(3)
    env, adapter = made(base)
    read = [keys.OBSERVATION, keys.BASE_ACTION]
    moving = StepResidual.at_zero(read, 5, CODES, 0.3 * torch.eye(2), bound=0.5, hidden=(8,))
    torch.nn.init.normal_(moving.network.head.network.layers[-1].weight)
    plain = CommandedPolicy(base, adapter, code)
    adapter.step_residual = moving
    env.set_step_residual(moving)
    policy = CommandedPolicy(base, adapter, code)
    with env.transform[-1].force(torch.tensor([2, 2, 2, 2])):
        root = env.reset()
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        played = env.step(adapter.steering(root.clone()))["next", keys.EXECUTED]
    first = policy.decode(root)[:, policy.played][:, 0].clamp(-0.5, 0.5)
    found = policy.corrected(root, first)
    torch.testing.assert_close(found.clamp(-0.5, 0.5), played[:, 0])
    assert float((found - first).abs().max()) > 0.01
    assert torch.equal(plain.corrected(root, first), first)
    one = policy.corrected(root[0], first[0])
    torch.testing.assert_close(one, found[0])
    with pytest.raises(KeyMismatchError, match="the commanded policy reads 'observation'"):
        policy.corrected(root.exclude(keys.OBSERVATION), first)


def test_one_code_may_be_fixed() -> None:
    base = TinyPolicy(3)
    env, adapter = made(base)
    root = env.reset()
    every = [CommandedPolicy(base, adapter, code).decode(root) for code in range(CODES)]
    assert not torch.equal(every[0], every[1])
    root[keys.LATENT] = torch.tensor([2, 1, 0, 1])
    read = CommandedPolicy(base, adapter).decode(root)
    for row, code in enumerate(root[keys.LATENT].tolist()):
        assert torch.allclose(read[row], every[code][row], atol=1e-6)
    fixed = CommandedPolicy(base, adapter, 2)
    assert fixed.in_keys == [keys.OBSERVATION]
    assert torch.equal(fixed.decode(root.select(keys.OBSERVATION)), every[2])
    one = TensorDict({keys.OBSERVATION: root[keys.OBSERVATION][0]}, [])
    assert fixed.decode(one).shape == (4, 2)


def test_a_mode_is_commanded_by_its_name(tmp_path: Path) -> None:
    """Of a merged one the code that is drawn most, from a folder as from the adapter itself."""
    base = TinyPolicy(3)
    env, adapter = made(base)
    adapter.estimator = CategoricalMI(5, adapter.prior)
    edited = edit_modes(
        adapter, names={2: "left", 0: "gone"}, merge=[("left", 1)], favour={"left": 2.0}, drop=[0]
    )
    edited.prior.weigh(torch.tensor([0.0, 0.3, 0.7]))
    save_adapter(tmp_path / "adapter", edited)
    root, codes = env.reset(), env.reset()[keys.LATENT]
    for given in (edited, tmp_path):
        for which in ("left", "1", 2, None):  # a single mode is left, which needs no name
            policy = CommandedPolicy(base, given, which)
            assert policy.in_keys == [keys.OBSERVATION]
            assert torch.equal(policy.decode(root), CommandedPolicy(base, adapter, 2).decode(root))
        assert torch.equal(
            CommandedPolicy(base, given, 1).decode(root),
            CommandedPolicy(base, adapter, 1).decode(root),
        )
        with pytest.raises(ConfigurationError, match="expected one of the modes left, got 'gone'"):
            CommandedPolicy(base, given, "gone")
    reads = CommandedPolicy(base, edit_modes(adapter, names={2: "left"}, drop=[0]))
    assert [mode.name for mode in reads.modes] == ["1", "left"]
    assert reads.in_keys == [keys.OBSERVATION, keys.LATENT]
    reads.decode(root.set(keys.LATENT, torch.full_like(codes, 2)))
    with pytest.raises(ConfigurationError, match=r"from the prior's support \[1, 2\], got codes"):
        reads.decode(root.set(keys.LATENT, torch.zeros_like(codes)))


def test_it_may_draw_from_psi() -> None:
    base = TinyPolicy(3)
    env, adapter = made(base)
    root, drawing = env.reset(), CommandedPolicy(base, adapter, 0, deterministic=False)
    first, second = drawing.decode(root), drawing.decode(root)
    assert not torch.equal(first, second)
    fixed = CommandedPolicy(base, adapter, 0)
    assert torch.equal(fixed.decode(root), fixed.decode(root))
    assert not any(parameter.requires_grad for parameter in drawing.parameters())


def test_a_code_that_plays_the_base_plays_the_base() -> None:
    """Not the chunk of no noise."""
    base = TinyPolicy(3)
    env, adapter = made(base)
    adapter.steering.head.steer_only(torch.tensor([True, False, True]), 0.5)
    root = env.reset()
    held, steered = (CommandedPolicy(base, adapter, code) for code in (1, 0))
    assert not torch.equal(held.decode(root), held.decode(root))
    assert torch.equal(steered.decode(root), steered.decode(root))
    torch.manual_seed(3)
    chunk = held.decode(root)
    torch.manual_seed(3)
    assert torch.equal(chunk, base.decode(torch.randn(4, 4, 2), root[keys.OBSERVATION]))


def test_a_run_is_enough(tmp_path: Path) -> None:
    base = TinyPolicy(3)
    env, adapter = made(base)
    save_adapter(tmp_path / "adapter", adapter)
    root, expected = env.reset(), CommandedPolicy(base, adapter, 1)
    assert torch.equal(CommandedPolicy(base, tmp_path, 1).decode(root), expected.decode(root))
    with pytest.raises(CheckpointError, match="base"):
        CommandedPolicy(stacked(), tmp_path)
    with pytest.raises(CheckpointError, match="the adapter steers the base policy 'base' with"):
        CommandedPolicy(stacked(), adapter)


@pytest.mark.parametrize("code", [-1, CODES])
def test_a_code_that_is_none_is_refused(code: int) -> None:
    base = TinyPolicy(3)
    env, adapter = made(base)
    with pytest.raises(ConfigurationError, match=f"expected one of the modes 0, 1, 2, got {code}"):
        CommandedPolicy(base, adapter, code)
    root = env.reset()
    root[keys.LATENT][1] = code
    with pytest.raises(ConfigurationError, match="expected codes under 'latent' from the prior's"):
        CommandedPolicy(base, adapter).decode(root)


def test_what_is_missing_is_named() -> None:
    base = TinyPolicy(3)
    env, adapter = made(base)
    root: Any = env.reset()
    with pytest.raises(KeyMismatchError, match="the commanded policy reads 'observation'"):
        CommandedPolicy(base, adapter, 0).decode(root.select(keys.LATENT))
    with pytest.raises(KeyMismatchError, match="the commanded policy reads 'latent'"):
        CommandedPolicy(base, adapter).decode(root.select(keys.OBSERVATION))
    root[keys.LATENT] = torch.zeros(4, 1, dtype=torch.int64)
    with pytest.raises(
        ShapeError, match=r"expected codes of shape \(4,\) under 'latent', got \(4, 1"
    ):
        CommandedPolicy(base, adapter).decode(root)


def test_codes_that_are_no_numbers_are_refused() -> None:
    _, adapter = made(TinyPolicy(3))
    with pytest.raises(ConfigurationError, match="expected an adapter of discrete codes, got one"):
        CommandedPolicy(TinyPolicy(3), replace(adapter, prior=NormalPrior(2)))
