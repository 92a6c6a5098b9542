from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from modereg import keys
from modereg.discovery.best_of import BestOf
from modereg.discovery.outcome import OutcomeData, OutcomeModel
from modereg.discovery.reach import Reach, predict_reach
from modereg.layout import Layout
from modereg.policies import as_generative_policy
from tests.discovery import toys

LUCK = 0.7


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

    A positive noise goes through a gate if there is luck, .7 of the time; whoever is through both
    has reached code 0, on the other side of both code 1 is.
    """
    policy = as_generative_policy(
        lambda noise, observation: noise + 0 * observation[..., None, :],
        in_keys=["observation"], noise_shape=(1, 1), chunk_shape=(1, 1),
    )  # fmt: skip
    noise = torch.randn(num, 2)
    lucky = torch.rand(num, 2) < LUCK
    up, down = (noise > 0) & lucky, (noise < 0) & lucky
    on = up[:, 0] | down[:, 0]
    outcomes = torch.full((num,), 2)
    outcomes[up.all(1)], outcomes[down.all(1)] = 0, 1
    place = torch.where(up, 1.0, -1.0)[:, 0]
    observation = torch.stack([torch.zeros(num), place], 1)
    valid = torch.stack([torch.ones_like(on), on], 1)
    rows = TensorDict({"observation": observation[valid][:, None]}, [int(valid.sum())])
    chunks = noise[valid][:, None, None]
    model = OutcomeModel(2, ["observation"], rows["observation"], chunks, hidden=(32, 32))
    data = OutcomeData(
        rows["observation"],
        model.chunk_features(rows["observation"], chunks),
        torch.full((len(rows),), 2),
        outcomes[:, None].expand(num, 2)[valid],
        torch.arange(num)[:, None].expand(num, 2)[valid],
    )
    model.fit(data, 300)
    return BestOf(policy, model, Layout(2, horizon=1)), rows, data


def test_gains_of_several_decisions_multiply_and_what_has_ended_gains_nothing() -> None:
    """By the noise of the base .7^2 / 4 reach a code, by the best noise .7^2."""
    found = predict_reach(*_arguments(two_gates(4000)))
    assert found.share.tolist() == pytest.approx([LUCK**2 / 4] * 2, abs=0.02)
    assert found.reach.tolist() == pytest.approx([LUCK**2] * 2, abs=0.1)


def test_the_error_is_that_of_another_draw_of_states() -> None:
    arguments = _arguments(two_gates(1500))
    drawn = torch.stack([predict_reach(*arguments, states=12).reach for _ in range(12)])
    error = predict_reach(*arguments, states=12).error
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
