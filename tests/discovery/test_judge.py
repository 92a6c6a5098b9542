"""What a steering policy reaches beside the base: figures, what is kept, and what is steered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modereg import keys
from modereg.discovery import ClusterModeDiscoverer, SelfImitation, VariationalModeDiscoverer
from modereg.discovery.judge import as_rows
from modereg.discovery.stage1 import choose_again
from modereg.errors import ConfigurationError
from modereg.estimators import CategoricalMI
from modereg.rollouts import Episodes
from modereg.steering import SteeringPolicy
from modereg.storage import load_state, save_state
from tests.discovery.places import BASE, codes_of, drawn, episodes_to, stage_of

TURNED = BASE[200:] + BASE[:200]
"""Each place's episodes end in the next one."""


def test_what_each_code_reaches(placed: ClusterModeDiscoverer) -> None:
    stage = stage_of(placed)
    stage.compare_with(episodes_to(placed, BASE, BASE))
    commanded = [0] * 100 + [1] * 100 + [2] * 100
    reached = [0] * 100 + [1] * 60 + [0] * 40 + [0] * 100
    row = stage.judge(episodes_to(placed, reached, commanded))
    order = codes_of(placed)
    assert stage.code_hits[order].tolist() == pytest.approx([1.0, 0.6, 0.0])
    assert stage.learned[order].tolist() == [True, True, False]
    assert row["hits"] == pytest.approx(160 / 300)
    assert row["commanded"] == pytest.approx(1 / 3)
    assert row["success"] == 1.0


def test_the_table_counts_what_each_code_led_to(placed: ClusterModeDiscoverer) -> None:
    """One place after the other, and none where an episode failed."""
    stage, order = stage_of(placed), codes_of(placed)
    commanded = [0] * 100 + [1] * 200
    row = stage.judge(episodes_to(placed, [0] * 100 + [1] * 100 + [2] * 100, commanded, 0.9))
    table = stage.table[order][:, [*order.tolist(), 3]]
    expected = [[0.9, 0, 0, 0.1], [0, 0.45, 0.45, 0.1], [0, 0, 0, 0]]  # the last was never drawn
    torch.testing.assert_close(table, torch.tensor(expected))
    assert torch.equal(stage.code_hits, stage.table.diagonal())
    assert row["success"] == pytest.approx(0.9)
    assert row["entropy"] == pytest.approx(1.0)


def test_the_outcomes_of_the_base(placed: ClusterModeDiscoverer) -> None:
    stage = stage_of(placed)
    with pytest.raises(ConfigurationError, match="got none; call compare_with first"):
        _ = stage.base_outcomes
    stage.compare_with(episodes_to(placed, [0] * 300 + [1] * 100, [0] * 400, 0.8))
    found = stage.base_outcomes[[*codes_of(placed).tolist(), 3]]
    torch.testing.assert_close(found, torch.tensor([0.6, 0.2, 0.0, 0.2]))


def test_nothing_is_below_a_base_that_nobody_has_seen(placed: ClusterModeDiscoverer) -> None:
    stage = stage_of(placed)
    row = stage.judge(episodes_to(placed, [0] * 600, BASE, 0.1))
    assert row["accepted"] == 1.0
    assert stage.learned.tolist() == [True] * 3


def test_without_a_label_of_success_reaching_is_enough(placed: ClusterModeDiscoverer) -> None:
    rolled = episodes_to(placed, BASE, BASE, success=0.0)
    assert stage_of(placed).judge(rolled)["hits"] == 0.0
    rolled.final = rolled.final.exclude(keys.SUCCESS)
    row = stage_of(placed).judge(rolled)
    assert (row["hits"], row["success"], row["commanded"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("reached", "success", "accepted"),
    [
        (BASE, 1.0, True),
        (BASE, 0.97, True),  # within the tolerance
        (BASE, 0.8, False),
        ([0] * 400 + [1] * 200, 1.0, False),  # a mode is lost
    ],
)
def test_what_loses_modes_or_success_is_not_accepted(
    placed: ClusterModeDiscoverer, reached: list[int], success: float, accepted: bool
) -> None:
    stage = stage_of(placed)
    stage.compare_with(episodes_to(placed, BASE, BASE))
    row = stage.judge(episodes_to(placed, reached, BASE, success))
    assert row["accepted"] == float(accepted)


def _set_mean(steering: SteeringPolicy, value: float) -> None:
    with torch.no_grad():
        steering.head.network.layers[-1].bias.fill_(value)


def test_the_round_that_hit_most_is_what_remains(placed: ClusterModeDiscoverer) -> None:
    stage = stage_of(placed)
    stage.compare_with(episodes_to(placed, BASE, BASE))
    rounds = [(0.5, BASE), (1.0, TURNED), (1.5, [0] * 600)]
    for mean, reached in rounds[:2]:
        _set_mean(stage.steering, mean)
        stage.remember(stage.judge(episodes_to(placed, reached, BASE)))
    _set_mean(stage.steering, rounds[2][0])
    assert not stage.choose(stage.judge(episodes_to(placed, rounds[2][1], BASE)))
    stage.judge(episodes_to(placed, BASE, BASE))  # again, since it is the best of three
    stage.settle()
    means, stds = drawn(stage.steering)
    torch.testing.assert_close(means, torch.full((3, 2), 2 * torch.tensor(0.25).tanh().item()))
    torch.testing.assert_close(stds, torch.full((3, 2), 0.3))
    assert torch.equal(stage.code_hits, torch.ones(3))
    assert torch.equal(stage.table, torch.eye(3, 4))


def test_of_two_rounds_that_hit_alike_the_later_remains(placed: ClusterModeDiscoverer) -> None:
    stage = stage_of(placed)
    stage.compare_with(episodes_to(placed, BASE, BASE))
    rolled = episodes_to(placed, BASE, BASE)
    stage.remember(stage.judge(rolled))
    _set_mean(stage.steering, 1.0)
    assert stage.choose(stage.judge(rolled))
    stage.settle()
    assert float(drawn(stage.steering)[0].min()) > 0.9


def test_what_is_not_worth_it_plays_the_base_exactly(placed: ClusterModeDiscoverer) -> None:
    """The base reaches place 2 in one of a hundred episodes, and so does the code of it."""
    stage, order = stage_of(placed), codes_of(placed)
    base = [0] * 540 + [1] * 54 + [2] * 6
    stage.compare_with(episodes_to(placed, base, BASE))
    _set_mean(stage.steering, 1.0)
    reached = [0] * 200 + [1] * 200 + [0] * 200
    stage.judge(episodes_to(placed, reached, BASE))
    stage.settle(std=0.4)
    assert stage.learned[order].tolist() == [True, True, False]
    assert stage.steering.head.steered[order].tolist() == [1.0, 1.0, 0.0]
    means, stds = drawn(stage.steering)
    torch.testing.assert_close(stds[order][:2], torch.full((2, 2), 0.4))
    assert float(means[order][:2].min()) > 0.9
    assert torch.equal(means[order][2], torch.zeros(2))
    assert torch.equal(stds[order][2], torch.ones(2))


def test_where_nothing_is_worth_it_the_base_is_what_remains(placed: ClusterModeDiscoverer) -> None:
    stage = stage_of(placed)
    stage.compare_with(episodes_to(placed, BASE, BASE))
    _set_mean(stage.steering, 1.0)
    stage.judge(episodes_to(placed, TURNED, BASE))
    stage.settle()
    means, stds = drawn(stage.steering)
    assert torch.equal(means, torch.zeros(3, 2))
    assert torch.equal(stds, torch.ones(3, 2))


def _rolled(placed: ClusterModeDiscoverer, each: int, failing: float) -> Episodes:
    """Episodes that do as they are told; the last code's fail more often than a tenth."""
    commanded = [code for code in range(3) for _ in range(each)]
    rolled = episodes_to(placed, commanded, commanded, 0.9)
    last = torch.arange(3 * each) >= 2 * each
    solved = rolled.final.get(keys.SUCCESS)[:, 0]
    solved = torch.where(last, torch.arange(3 * each) % 100 < 100 * (1 - failing), solved)
    rolled.final.set(keys.SUCCESS, solved.unsqueeze(-1))
    return rolled


def test_codes_are_chosen_again_by_all_that_was_judged(placed: ClusterModeDiscoverer) -> None:
    """What few episodes hide, more of them show: the code is drawn a tenth as often then."""
    stage, order = stage_of(placed), codes_of(placed)
    stage.compare_with(episodes_to(placed, [0] * 300 + [1] * 270 + [2] * 30, BASE, 0.9))
    prior = placed.estimator.prior
    stage.choose(stage.judge(_rolled(placed, 100, failing=0.1)))
    stage.settle()
    assert torch.equal(prior.probs, torch.full((3,), 1 / 3, dtype=torch.float64))
    stage.judge(_rolled(placed, 1000, failing=0.1))
    assert not choose_again(stage, 0.3)  # nothing is lost
    stage.judge(_rolled(placed, 1000, failing=0.2))
    assert choose_again(stage, 0.3)
    assert stage.learned.tolist() == [True] * 3
    expected = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64) / 2.1
    torch.testing.assert_close(prior.probs[order], expected)
    stage.judge(_rolled(placed, 1000, failing=0.2))
    assert not choose_again(stage, 0.3)  # no other choice follows from more of the same


def test_what_commands_is_not_given_up_for_a_little_success(placed: ClusterModeDiscoverer) -> None:
    """Each place is a third of the base's, and none may be had less often: the verdict says it."""
    stage = stage_of(placed)
    stage.compare_with(episodes_to(placed, BASE, BASE, 0.9))
    stage.judge(_rolled(placed, 100, failing=0.1))
    stage.settle()
    figures = stage.judge(_rolled(placed, 1000, failing=0.2))
    assert not choose_again(stage, 0.3)
    assert stage.steering.head.steered.tolist() == [1.0] * 3
    assert "success 0.867 instead of 0.900" in str(stage.verdict(figures))


def test_what_was_given_up_is_not_steered_again(placed: ClusterModeDiscoverer) -> None:
    """Though its episodes, of the base's noise, may seem to command by luck."""
    stage, order = stage_of(placed), codes_of(placed)
    stage.compare_with(episodes_to(placed, [0] * 540 + [1] * 54 + [2] * 6, BASE))
    stage.judge(episodes_to(placed, [0] * 200 + [1] * 200 + [0] * 200, BASE))
    stage.settle()
    stage.judge(episodes_to(placed, BASE, BASE))
    stage.settle()
    assert stage.steering.head.steered[order].tolist() == [1.0, 1.0, 0.0]


def test_a_state_goes_on_as_it_was(placed: ClusterModeDiscoverer, tmp_path: Path) -> None:
    stage, other = stage_of(placed), stage_of(placed)
    stage.compare_with(episodes_to(placed, BASE, BASE))
    stage.remember(stage.judge(episodes_to(placed, [0] * 600, BASE)))
    save_state(tmp_path / "state.pt", stage.state_dict())
    _set_mean(stage.steering, 1.0)
    _set_mean(other.steering, 1.0)
    other.load_state_dict(load_state(tmp_path / "state.pt"))
    assert torch.equal(other.learned, stage.learned)
    assert torch.equal(other.code_hits, stage.code_hits)
    assert torch.equal(other.base_outcomes, stage.base_outcomes)
    rolled = episodes_to(placed, TURNED, BASE)
    row = stage.judge(rolled)
    assert other.judge(rolled) == row
    for each in (stage, other):
        each.choose(row)
        each.settle()
    assert torch.equal(other.learned, stage.learned)
    for first, second in zip(drawn(other.steering), drawn(stage.steering), strict=True):
        assert torch.equal(first, second)


def test_what_does_not_fit_is_refused(placed: ClusterModeDiscoverer) -> None:
    rolled = episodes_to(placed, BASE, BASE)
    rolled.final.set(keys.LATENT, torch.full((600,), 3))
    with pytest.raises(ConfigurationError, match=r"support \[0, 1, 2\], got codes between 3 and 3"):
        stage_of(placed).judge(rolled)
    four = SteeringPolicy([keys.OBSERVATION], 1, 4, (1, 2))
    with pytest.raises(ConfigurationError, match="for 3 codes, the discoverer's, got one for 4"):
        SelfImitation(four, placed)
    online = VariationalModeDiscoverer(CategoricalMI(2, 4))
    with pytest.raises(ConfigurationError, match="a ClusterModeDiscoverer, got Variational"):
        SelfImitation(four, online)  # type: ignore[arg-type]


def test_rows_of_a_dictionary() -> None:
    rows = as_rows({"a": torch.zeros(5, 2, 2), "b": {"c": torch.ones(5)}})
    assert rows.batch_size == (5,)
    assert rows["b", "c"].shape == (5,)
