"""Chains of denoising steps: their decode, draws, likelihoods and marginals, and what is saved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributions import Normal

from modereg import keys
from modereg.errors import CheckpointError, ConfigurationError
from modereg.policies import ChainRecorder, DenoisingChain, freeze
from modereg.testing import TinyPolicy, check_generative_policy
from tests.policies.made import OBS, SHAPE, changed, data, flow


class Mixture(nn.Module):
    """The exact field of a flow to two Gaussians of one number, at -1 and 1."""

    spread = 0.3

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None, None]
        variance = t.square() * self.spread**2 + (1 - t).square()
        fields, weights = [], []
        for centre in (-1.0, 1.0):
            away = x - t * centre
            slope = (t * self.spread**2 - (1 - t)) / variance
            fields.append(centre + slope * away)
            weights.append(-0.5 * away.square() / variance)
        share = torch.stack(weights).softmax(0)
        return (share * torch.stack(fields)).sum(0)


@pytest.mark.parametrize("convention", ["noise_at_0", "noise_at_1"])
@pytest.mark.parametrize("steps", [None, 2, 1])
def test_without_noise_the_chain_is_the_decode(convention: str, steps: int | None) -> None:
    base = flow(convention)
    chain, rows = DenoisingChain(base, steps, noise=0.0), data(6)
    noise = torch.randn(6, *SHAPE)
    expected = base.decode_from(rows, noise)
    drawn = chain.sample(noise, rows["observation"])
    torch.testing.assert_close(drawn.chunk, expected, rtol=1e-6, atol=1e-6)
    assert drawn.chain.shape == (6, (steps or 5) + 1, *SHAPE)
    decoded = chain.decode_from(rows, noise)
    torch.testing.assert_close(decoded, expected, rtol=1e-6, atol=1e-6)
    if steps is None:
        assert torch.equal(decoded, expected)


def test_the_earlier_steps_are_the_bases_and_the_last_ones_the_copys() -> None:
    """By hand: two Euler steps of one velocity, then three of the other."""
    base, rows = flow(), data(6)
    chain = changed(DenoisingChain(base, 3, noise=0.0))
    x = noise = torch.randn(6, *SHAPE)
    for step in range(5):
        network = (base if step < 2 else chain.tuned).velocity
        x = x + network(x, torch.full((6,), step / 5), rows["observation"]) / 5
    torch.testing.assert_close(chain.decode_from(rows, noise), x)
    drawn = chain.sample(noise, rows["observation"])
    torch.testing.assert_close(drawn.chunk, x)
    assert float((base.decode_from(rows, noise) - x).detach().abs().max()) > 0.1


def test_the_contract_of_policies_is_kept() -> None:
    for steps in (None, 2):
        check_generative_policy(freeze(changed(DenoisingChain(flow(), steps))), data(5))


def test_the_likelihood_of_what_was_drawn_is_that_of_the_batched_pass() -> None:
    base = flow().double()
    chain, rows = changed(DenoisingChain(base, 3, noise=0.3)), data(7, dtype=torch.float64)
    drawn = chain.sample(torch.randn(7, *SHAPE).double(), rows["observation"])
    means = chain.means(drawn.chain, rows["observation"])
    again = chain.log_prob(drawn.chain, means)
    torch.testing.assert_close(again, drawn.log_prob, rtol=0.0, atol=1e-9)
    by_hand = Normal(means[:, 1], chain.std[1]).log_prob(drawn.chain[:, 2]).sum((-2, -1))
    torch.testing.assert_close(drawn.log_prob[:, 1], by_hand)
    away = (drawn.chain[:, 1:] - means) / chain.std[:, None, None]
    assert float(away.detach().std()) == pytest.approx(1.0, abs=0.15)


def test_noise_keeps_the_marginals_of_a_flow() -> None:
    """Of a mixture whose velocity is known, at a noise that would else spread it by a half."""
    base = flow(velocity=Mixture(), num_steps=64, observation_keys=[], chunk_shape=(1, 1))
    noise = torch.randn(20_000, 1, 1)
    still = base.decode(noise).flatten()
    drawn = DenoisingChain(base, noise=1.5, floor=0.0).sample(noise).chunk.flatten()
    assert float((drawn - still).abs().mean()) > 0.2, "it is noise"
    for power in (1, 2, 4):
        found, expected = (each.pow(power).mean() for each in (drawn, still))
        assert float(found) == pytest.approx(float(expected), abs=0.04)
    assert float((drawn.abs() < 0.3).float().mean()) == pytest.approx(
        float((still.abs() < 0.3).float().mean()), abs=0.02
    )


def test_a_step_has_at_least_the_floor() -> None:
    natural = [((1 - t) / 5) ** 0.5 for t in (0.0, 0.2, 0.4, 0.6, 0.8)]
    chain = DenoisingChain(flow(), noise=0.5, floor=0.3)
    expected = [0.5 * max(each, 0.3) for each in natural]
    assert chain.std.tolist() == pytest.approx(expected)
    assert not bool(DenoisingChain(flow(), noise=0.0, floor=0.3).std.any())


def test_only_the_copy_learns_and_a_copy_of_it_all_has_its_own() -> None:
    base = flow()
    before = copy.deepcopy(base.state_dict())
    chain = changed(DenoisingChain(base))
    trained = {name for name, value in chain.named_parameters() if value.requires_grad}
    assert trained == {f"tuned.{name}" for name, _ in base.named_parameters()}
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())
    assert chain.fingerprint() != DenoisingChain(base).fingerprint()
    other, rows, noise = copy.deepcopy(chain), data(3), torch.randn(3, *SHAPE)
    drawn = chain.sample(noise, rows["observation"]).chain
    expected = chain.means(drawn, rows["observation"])
    changed(other)
    assert torch.equal(chain.means(drawn, rows["observation"]), expected)
    assert not torch.equal(other.means(drawn, rows["observation"]), expected)


def test_numbers_that_are_no_floats_stay() -> None:
    """As the integers of a quantised layer."""
    base, levels = flow(), nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    base.velocity.register_parameter("levels", levels)
    chain = DenoisingChain(base)
    learned = {name for name, value in chain.named_parameters() if value.requires_grad}
    assert learned == {f"tuned.{n}" for n, _ in base.named_parameters() if "levels" not in n}
    again = DenoisingChain(base)
    again.load_weights(chain.weights().weights)
    assert torch.equal(again.tuned.velocity.levels, levels)


def test_weights_come_back_and_those_of_another_policy_are_refused() -> None:
    base, rows, noise = flow(), data(3), torch.randn(3, *SHAPE)
    chain = changed(DenoisingChain(base, 2))
    kept = chain.weights()
    assert (kept.steps, set(kept.weights)) == (2, {name for name, _ in base.named_parameters()})
    again = DenoisingChain(base, 2)
    again.load_weights(kept.weights)
    assert torch.equal(again.decode_from(rows, noise), chain.decode_from(rows, noise))
    with pytest.raises(CheckpointError, match="expected the weights of FlowPolicy, got others"):
        again.load_weights(kept.weights | {"more": torch.zeros(1)})


def test_weights_of_a_compiled_policy_are_those_of_the_policy() -> None:
    """As its fingerprint is: what was trained compiled is played without, and the other way."""
    plain = flow()
    compiled = copy.deepcopy(plain)
    compiled.velocity = torch.compile(compiled.velocity, backend="eager")
    assert compiled.fingerprint() == plain.fingerprint()
    for one, other in [(plain, compiled), (compiled, plain)]:
        trained, again = changed(DenoisingChain(one, 2)), DenoisingChain(other, 2)
        again.load_weights(trained.weights().weights)
        pairs = zip(trained.tuned.parameters(), again.tuned.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


def test_a_recorder_writes_what_each_decision_drew() -> None:
    chain = changed(DenoisingChain(flow(), 2))
    recorder, rows = ChainRecorder(chain), [data(3), data(3)]
    chunks = [recorder.decode_from(each, torch.randn(3, *SHAPE)) for each in rows]
    batch = recorder.write(TensorDict(batch_size=[3, 2]))
    assert batch[keys.CHAIN].shape == (3, 2, 3, *SHAPE)
    assert batch[keys.CHAIN_LOG_PROB].shape == (3, 2, 2)
    for time, chunk in enumerate(chunks):
        assert torch.equal(batch[keys.CHAIN][:, time, -1], chunk)
    with pytest.raises(ConfigurationError, match="a batch of the 0 decisions .* got one of 2"):
        recorder.write(batch)


def test_a_policy_without_a_chain_is_refused() -> None:
    sentence = (
        "expected a policy whose denoising steps are known .* got TinyPolicy; train its noise"
    )
    with pytest.raises(ConfigurationError, match=sentence):
        DenoisingChain(TinyPolicy(OBS))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 6}, "expected 1 to 5 trained steps, as many as the policy takes, got 6"),
        ({"steps": 0}, "expected 1 to 5 trained steps"),
        ({"noise": -0.1}, "expected noise of at least 0 and finite, got -0.1"),
        ({"floor": float("inf")}, "expected floor of at least 0 and finite, got inf"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        DenoisingChain(flow(), **options)
