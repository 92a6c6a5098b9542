from __future__ import annotations

import copy
import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modereg import keys
from modereg.errors import ConfigurationError, NonFiniteError
from modereg.layout import Layout
from modereg.learners.base import Problem
from modereg.learners.config import DPPOConfig
from modereg.learners.dppo import DPPO
from modereg.policies import DenoisingChain, freeze
from modereg.testing import CountingEnv
from modereg.wrapping import make_steering, steer_env
from tests.learners.made import check_goes_on, problem, same, trained_weights
from tests.policies.made import SHAPE, flow


def _problem(seed: int = 0, basis: Tensor | None = None) -> Problem:
    """Return one of 4 environments and 2 codes, whose steering policy says what code it has."""
    torch.manual_seed(0)
    policy = flow(num_steps=3)
    layout = Layout(12, execute=3, gamma=0.9, noise_basis=basis)
    env = steer_env(CountingEnv([3, 7, 5, 12]), policy, 2, layout)
    steering = make_steering(env, policy, 2, hidden=(16,))
    nn.init.normal_(steering.head.network.layers[-1].weight)
    steering.set_std(0.5)
    return Problem(env, steering, policy, keys.REWARD, seed=seed, hidden=(16,))


def _learner(on: Problem | None = None, **changes: Any) -> DPPO:
    options = {"minibatch": 8, "epochs": 2, "decisions": 6, "noise": 0.5} | changes
    return DPPO(on or _problem(), DPPOConfig(**options))


def _named(part: nn.Module) -> list[tuple[str, Tensor]]:
    return [(f"{id(type(part))}.{name}", value) for name, value in part.state_dict().items()]


@pytest.mark.parametrize("steps", [None, 2])
def test_the_weights_learn_and_base_and_steering_policy_stay(steps: int | None) -> None:
    made = _learner(steps=steps, kl_coef=0.1)
    stays = copy.deepcopy([*_named(made.steering), *_named(made.problem.base)])
    before = copy.deepcopy(dict(made.chain.tuned.state_dict()))
    for _ in range(2):
        figures = made.update(made.collect())
    assert {"loss_objective", "loss_critic", "loss_kl", "clip_fraction"} <= set(figures)
    assert figures["loss_kl"] > 0.0
    now = [*_named(made.steering), *_named(made.problem.base)]
    assert all(torch.equal(one, two) for (_, one), (_, two) in zip(stays, now, strict=True))
    assert not same(before, made.chain.tuned.state_dict())


@pytest.mark.parametrize("rank", [None, 3])
def test_draws_are_played_while_it_collects_and_the_mean_between(rank: int | None) -> None:
    made = _learner(_problem(basis=None if rank is None else torch.eye(8)[:, :rank]))
    env, chain = made.problem.env, made.chain
    batch = made.collect()
    assert batch[keys.CHAIN].shape == (4, 6, 4, *SHAPE)
    assert torch.equal(batch[keys.CHAIN][:, :, -1], batch["next", keys.CHUNK])
    noise = batch[keys.ACTION] if rank is None else batch["next", keys.NOISE]
    assert torch.equal(batch[keys.CHAIN][:, :, 0], noise), "codes reach it through the noise"
    assert env.tuned is chain
    after = env.step(made.steering(env.reset()))
    noise = after[keys.ACTION] if rank is None else after["next", keys.NOISE]
    torch.testing.assert_close(after["next", keys.CHUNK], chain.decode_from(after, noise))


def test_what_a_batch_that_failed_drew_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _learner()
    step, calls = CountingEnv._step, iter([False, False, True])

    def failing(env: CountingEnv, tensordict: TensorDictBase) -> TensorDictBase:
        if next(calls, False):
            raise RuntimeError("lost")
        return step(env, tensordict)

    with monkeypatch.context() as patch:
        patch.setattr(CountingEnv, "_step", failing)
        with pytest.raises(RuntimeError, match="lost"):
            made.collect()
    assert made.problem.env.tuned is made.chain
    batch = made.collect()
    assert torch.equal(batch[keys.CHAIN][:, :, -1], batch["next", keys.CHUNK])


def test_the_ratio_of_a_collected_batch_is_one() -> None:
    made = _learner(epochs=1, minibatch=24, learning_rate=1e-30)
    figures = made.update(made.collect())
    assert abs(figures["kl_approx"]) < 1e-6
    assert figures["clip_fraction"] == 0.0


def test_an_update_makes_good_chains_likelier() -> None:
    made = _learner(learning_rate=1e-2)
    batch = made.collect()
    made.update(batch)
    rows = batch.reshape(-1)
    with torch.no_grad():
        means = made.chain.means(rows[keys.CHAIN], rows[keys.OBSERVATION])
        gain = made.chain.log_prob(rows[keys.CHAIN], means) - rows[keys.CHAIN_LOG_PROB]
    advantage = rows["advantage"] - rows["advantage"].mean()
    assert float((advantage * gain).mean()) > 0.0


@pytest.mark.parametrize(("decisions", "rank"), [(6, None), (2, None), (6, 2)])
def test_a_state_taken_up_goes_on_bit_for_bit(decisions: int, rank: int | None) -> None:
    make = partial(_learner, decisions=decisions, lora_rank=rank)
    check_goes_on(make, trained_weights, 3)


def test_adapters_learn_and_nothing_that_they_adapt() -> None:
    made = _learner(lora_rank=2, kl_coef=0.1)
    held = {id(value) for group in made.optimizer.param_groups for value in group["params"]}
    start = copy.deepcopy(made.chain.weights().weights)
    stays = copy.deepcopy(_named(made.problem.base))
    root, noise = made.problem.env.reset(), torch.randn(4, *SHAPE)
    begun = made.problem.base.decode_from(root, noise)
    assert torch.equal(made.chain.decode_from(root, noise), begun)
    for _ in range(2):
        figures = made.update(made.collect())
    assert figures["loss_kl"] > 0.0, "held at the base, which is not the adapted weights"
    assert all(value.grad is None for value in made.problem.base.parameters())
    for name, value in made.chain.tuned.named_parameters():
        assert (value.grad is not None) == (id(value) in held) == value.requires_grad, name
    now = made.chain.weights().weights
    assert not any(torch.equal(start[name], value) for name, value in now.items())
    pairs = zip(stays, _named(made.problem.base), strict=True)
    assert all(torch.equal(one, two) for (_, one), (_, two) in pairs)
    assert not torch.equal(made.chain.decode_from(root, noise), begun)


def test_what_is_not_finite_ends_before_the_optimisers_step() -> None:
    for key in (keys.CHAIN, keys.CHAIN_LOG_PROB):
        made = _learner()
        batch = made.collect()
        batch[key][0, 0] = torch.nan
        before = copy.deepcopy(trained_weights(made))
        with pytest.raises(NonFiniteError, match=rf"{re.escape(repr(key))} in batch 1, got NaN"):
            made.update(batch)
        assert same(before, trained_weights(made))


@pytest.mark.parametrize(("rank", "other"), [(None, 2), (2, 1)])
def test_it_goes_on_from_the_weights_of_a_start(rank: int | None, other: int) -> None:
    first = _learner(steps=2, lora_rank=rank, learning_rate=1e-2)
    first.update(first.collect())
    on = _problem()
    started = DenoisingChain(on.base, 2, rank=rank)
    started.load_weights(first.chain.weights().weights)
    on.env.set_decoder(freeze(started))
    made = _learner(on)
    assert made.chain.steps == 2
    assert same(made.chain.tuned.state_dict(), first.chain.tuned.state_dict())
    named = made.chain.tuned.named_parameters()
    assert {name for name, value in named if value.requires_grad} == {*made.chain.weights().weights}
    sentence = "expected steps as the start trained, 2, got 3; leave them out"
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        _learner(on, steps=3)
    sentence = f"expected rank as the start trained, {rank}, got {other}; leave them out"
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        _learner(on, lora_rank=other)


@pytest.mark.parametrize("rank", [None, 2])
def test_codes_shift_the_denoiser_and_a_start_brings_them_along(rank: int | None) -> None:
    first = _learner(lora_rank=rank, embed_codes=True, learning_rate=1e-2)
    assert first.chain.codes == 2
    root, noise = first.problem.env.reset(), torch.randn(4, *SHAPE)
    one, two = (torch.eye(2)[torch.full((4,), code)] for code in (0, 1))

    def decode(made: DPPO, features: Tensor) -> Tensor:
        rows = root.clone().set(made.problem.steering.latent_key, features)
        return made.chain.decode_from(rows, noise)

    assert torch.equal(decode(first, one), first.problem.base.decode_from(root, noise))
    assert torch.equal(decode(first, one), decode(first, two))
    first.update(first.collect())
    assert not torch.equal(decode(first, one), decode(first, two))
    on = _problem()
    on.env.set_decoder(freeze(first.chain.weights().chain(on.base)))
    for asked in (False, True):
        made = _learner(on, embed_codes=asked)
        assert (made.chain.codes, made.chain.rank) == (2, rank)
        assert torch.equal(decode(made, two), decode(first, two))
    on.env.set_decoder(freeze(DenoisingChain(on.base, rank=rank)))
    with pytest.raises(ConfigurationError, match="expected codes as the start trained, None, got"):
        _learner(on, embed_codes=True)


def test_it_goes_on_bit_for_bit_with_codes_in_the_denoiser() -> None:
    check_goes_on(partial(_learner, embed_codes=True), trained_weights, 3)


def test_a_policy_without_a_chain_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="denoising steps .* got TinyPolicy"):
        _learner(problem())


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"noise": 0.0}, "expected noise above 0 and finite, got 0.0"),
        ({"floor": 0.0}, "expected floor above 0 and finite, got 0.0"),
        ({"steps": 0}, "expected steps of at least 1, got 0"),
        ({"lora_rank": 0}, "expected lora_rank of at least 1, got 0"),
        ({"clip_first": 1.5}, "expected clip_first in [0, 1], got 1.5"),
        ({"gamma_denoising": 1.5}, "expected gamma_denoising in [0, 1], got 1.5"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        replace(DPPOConfig(), **option)
