from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from modereg import keys
from modereg.discovery.best_of import BestOf
from modereg.discovery.outcome import OutcomeData, OutcomeModel
from modereg.discovery.reach import Reach, _decisions, _Sample, predict_reach
from modereg.layout import Layout
from modereg.policies import as_generative_policy
from tests.discovery import toys

OPEN = 0.7
"""How often a gate is open."""


def predicted(num: int = 2000, **options: int) -> tuple[Reach, BestOf]:
    """Return the reach of the toy of one decision, and what it is the reach of."""
    seen, _, data, model = toys.episodes(num)
    model.fit(data, 300)
    best_of = BestOf(toys.policy(), model, toys.LAYOUT)
    return predict_reach(best_of, seen, data.outcomes, data.episodes, **options), best_of


def test_it_is_what_the_best_of_many_noises_then_reaches() -> None:
    found, best_of = predicted()
    for code in (0, 1):
        one_hot = torch.eye(2)[code].expand(1000, 2)
        rows = TensorDict(
            {"observation": torch.randn(1000, toys.OBS), keys.LATENT_FEATURES: one_hot}, [1000]
        )
        chunks = best_of.decode(rows)[:, 1:4]
        reached = float(toys.chance(chunks)[:, code].mean())
        assert float(found.share[code]) == pytest.approx(toys.LUCK / 2, abs=0.04)
        assert float(found.reach[code]) == pytest.approx(reached, abs=0.1)
        assert 0.005 < float(found.error[code]) < 0.1


def test_of_one_noise_it_is_the_share() -> None:
    seen, _, data, model = toys.episodes(300)
    base = BestOf(toys.policy(), model, toys.LAYOUT, num_draws=1)
    found = predict_reach(base, seen, data.outcomes, data.episodes)
    torch.testing.assert_close(found.reach, found.share)


def test_what_chance_decides_stays_where_it_is() -> None:
    seen, _, data, model = toys.episodes(3000)
    data.outcomes = torch.multinomial(torch.tensor([0.3, 0.1, 0.6]), 3000, replacement=True)
    model.fit(data, 200)
    found = predict_reach(
        BestOf(toys.policy(), model, toys.LAYOUT), seen, data.outcomes, data.episodes
    )
    assert found.reach.tolist() == pytest.approx([0.3, 0.1], abs=0.08)


def two_gates(num: int) -> tuple[BestOf, TensorDict, OutcomeData]:
    """Return episodes that end at the first of two gates that they miss.

    The more positive a noise, the surer it goes up, else it goes down, and each gate is open .7 of
    the time. Twice up is code 0, twice down is code 1.
    """
    policy = as_generative_policy(
        lambda noise, observation: noise + 0 * observation[..., None, :],
        in_keys=["observation"], noise_shape=(1, 1), chunk_shape=(1, 1),
    )  # fmt: skip
    noise = torch.randn(num, 2)
    up = torch.rand(num, 2) < torch.sigmoid(4 * noise)
    opened = torch.rand(num, 2) < OPEN
    outcomes = torch.full((num,), 2)
    outcomes[(up & opened).all(1)], outcomes[(~up & opened).all(1)] = 0, 1
    valid = torch.stack([torch.ones(num, dtype=torch.bool), opened[:, 0]], 1)
    place = torch.stack([torch.zeros(num), 2.0 * up[:, 0] - 1], 1)[valid][:, None]
    rows, chunks = TensorDict({"observation": place}, [len(place)]), noise[valid][:, None, None]
    model = OutcomeModel(2, ["observation"], place, chunks)
    outcomes, episodes = (
        each[:, None].expand(num, 2)[valid] for each in (outcomes, torch.arange(num))
    )
    features = model.chunk_features(place, chunks)
    data = OutcomeData(place, features, torch.full_like(outcomes, 2), outcomes, episodes)
    model.fit(data, 500)
    return BestOf(policy, model, Layout(2, horizon=1)), rows, data


def test_gains_of_several_decisions_multiply() -> None:
    """By the noise of the base .7^2 / 4 reach a code, by the best noise .7^2."""
    found = predict_reach(*_arguments(two_gates(3000)))
    assert found.share.tolist() == pytest.approx([OPEN**2 / 4] * 2, abs=0.02)
    assert found.reach.tolist() == pytest.approx([OPEN**2] * 2, abs=0.15)


def test_what_has_ended_gains_nothing() -> None:
    """Half of a code's episodes end after one decision, and the other half's chance doubles."""
    episodes = torch.cat([torch.arange(10), torch.arange(10, 20).repeat_interleave(2)])
    sample = _Sample.draw(torch.zeros_like(episodes), _decisions(episodes), 2, states=100)
    value = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(30, 2)
    doubled = torch.where(sample.decision[:, None] == 1, 2 * value, value)
    assert sample.reach(value, value).tolist() == pytest.approx([1.0, 0.0])
    assert sample.reach(value, doubled).tolist() == pytest.approx([1.5, 0.0])


def test_states_of_rare_outcomes_are_drawn_too_and_weighted_back() -> None:
    """Of 1000 episodes 10 reach code 0, from states that tell: drawn alike, they count as 10."""
    outcomes = torch.cat([torch.zeros(10, dtype=torch.int64), torch.ones(990, dtype=torch.int64)])
    sample = _Sample.draw(outcomes, torch.zeros_like(outcomes), 2, states=5)
    assert torch.bincount(outcomes[sample.rows]).tolist() == [5, 5]
    value = torch.nn.functional.one_hot(outcomes[sample.rows], 2).double()
    gained = value.clone()
    gained[outcomes[sample.rows] == 1, 0] = 0.01  # a hundredth of 990 is about ten
    assert float(sample.reach(value, gained)[0]) == pytest.approx(0.01 * 19.9 / 10)


def test_the_error_is_that_of_another_draw_of_states() -> None:
    arguments = _arguments(two_gates(1500))
    drawn = torch.stack([predict_reach(*arguments).reach for _ in range(12)])
    error = predict_reach(*arguments).error
    assert bool((error > 0.4 * drawn.std(0)).all())
    assert bool((error < 4 * drawn.std(0)).all())


def _arguments(made: tuple[BestOf, TensorDict, OutcomeData]) -> tuple:
    best_of, rows, data = made
    return best_of, rows, data.outcomes, data.episodes


def test_a_code_that_nothing_reached_has_no_reach() -> None:
    seen, _, data, model = toys.episodes(400)
    data.outcomes[data.outcomes == 1] = 2
    model.fit(data, 20)
    best_of = BestOf(toys.policy(), model, toys.LAYOUT)
    found = predict_reach(best_of, seen, data.outcomes, data.episodes)
    assert float(found.share[1]) == float(found.reach[1]) == 0


@pytest.mark.parametrize(("budget", "decodes"), [(10_000, 3 * 12 * 16), (480, 480), (1, 96)])
def test_so_many_noises_are_decoded_and_no_more(budget: int, decodes: int) -> None:
    found, _ = predicted(300, max_decodes=budget)
    assert found.decodes == decodes
