from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)

from modereg.errors import ConfigurationError, ShapeError
from modereg.information import kozachenko_leonenko_entropy
from modereg.metrics import (
    BehaviourMetrics,
    action_entropy,
    behaviour_metrics,
    best_of_codes,
    blocked_success,
    mean_interval,
    partition_agreement,
    replanned_success,
    success_table,
)


def _episodes(rows: list[tuple[int, bool, int, float]]) -> dict[str, torch.Tensor]:
    codes, success, modes, returns = zip(*rows, strict=True)
    return dict(
        codes=torch.tensor(codes),
        success=torch.tensor(success),
        modes=torch.tensor(modes),
        returns=torch.tensor(returns),
    )


def test_a_table_made_by_hand() -> None:
    rows = [
        (0, True, 0, 1.0),
        (0, True, 0, 1.0),
        (0, True, 1, 2.0),
        (0, False, 0, 0.0),  # failed in mode 0: attributed to it
        (1, True, 1, 2.0),
        (1, False, -1, -1.0),  # failed before its mode was decided
        (1, True, 1, 2.0),
        (1, True, 1, 2.0),
    ]
    found = behaviour_metrics(**_episodes(rows), num_codes=3, num_modes=3)

    assert found.episodes == 8
    assert found.mean_return == pytest.approx(9 / 8)
    assert found.per_code_return[:2] == pytest.approx([1.0, 1.25])
    assert math.isnan(found.per_code_return[2])
    assert found.code_shares == [0.5, 0.5, 0.0]
    assert found.success == 0.75
    assert found.success_error == pytest.approx((0.75 * 0.25 / 8) ** 0.5)
    assert found.per_code_success is not None
    assert found.per_code_success[:2] == [0.75, 0.75]
    assert math.isnan(found.per_code_success[2])
    assert found.code_mode_table == [[2, 1, 0], [0, 3, 0], [0, 0, 0]]
    assert found.mode_shares == pytest.approx([2 / 6, 4 / 6, 0.0])
    p = np.array([2 / 6, 4 / 6])
    assert found.entropy == pytest.approx(-(p * np.log(p)).sum() / np.log(3))
    assert found.present_modes == 2
    assert found.per_mode_success is not None
    assert found.per_mode_success[:2] == pytest.approx([2 / 3, 1.0])
    assert math.isnan(found.per_mode_success[2])
    assert found.mean_mode_success == pytest.approx((2 / 3 + 1) / 2)
    assert found.mastered_modes == 1
    assert found.undecided == 1 / 8
    assert found.commandable_modes == 0  # 3 of 4 episodes of code 1 succeed in mode 1: .75
    agreement = adjusted_mutual_info_score([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1])
    assert found.code_mode_nmi == pytest.approx(agreement)


@pytest.mark.parametrize(("rare", "present"), [(0, 1), (1, 1), (2, 2), (3, 2)])
def test_a_mode_is_present_from_exactly_one_percent_of_the_successes(
    rare: int, present: int
) -> None:
    modes = torch.tensor([0] * (200 - rare) + [1] * rare + [1] * 50)
    success = torch.tensor([True] * 200 + [False] * 50)  # failures in mode 1 do not count
    codes = torch.zeros(250, dtype=torch.int64)
    found = behaviour_metrics(success, codes, 1, returns=torch.zeros(250), modes=modes, num_modes=2)
    assert found.present_modes == present


@pytest.mark.parametrize("num_codes", [8, 48])
@pytest.mark.parametrize("episodes", [128, 512, 1024, 4096])
def test_a_discoverer_that_guesses_has_one_effective_code(num_codes: int, episodes: int) -> None:
    """Without the correction 48 codes and 1024 episodes would give 2.9, and 128 episodes 15."""
    found, perfect = [], []
    for seed in range(8):
        codes = torch.arange(episodes) % num_codes
        guess = torch.randint(num_codes, (episodes,), generator=torch.Generator().manual_seed(seed))
        for read, into in ((guess, found), (codes, perfect)):
            judged = behaviour_metrics(
                None, codes, num_codes, returns=torch.zeros(episodes), predicted_codes=read
            )
            into.append(judged.effective_codes)
    assert np.mean(found) == pytest.approx(1.0, abs=0.1)
    if episodes >= 512:
        assert max(found) < 1.1
    assert perfect == pytest.approx([num_codes] * 8, rel=0.02)


def test_codes_that_do_not_command_have_no_information_on_modes() -> None:
    generator = torch.Generator().manual_seed(0)
    codes, modes = torch.randint(24, (2, 400), generator=generator)
    found = behaviour_metrics(None, codes, 24, returns=torch.zeros(400), modes=modes, num_modes=24)
    assert found.code_mode_nmi < 0.05


def test_luck_commands_no_mode() -> None:
    """Two episodes of each of 48 codes show one mode for many of them, whatever the codes do."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        codes, modes = torch.arange(96) % 48, torch.randint(3, (96,), generator=generator)
        found = behaviour_metrics(
            None, codes, 48, returns=torch.zeros(96), modes=modes, num_modes=3
        )
        assert found.commandable_modes == 0
    codes = torch.arange(480) % 48
    found = behaviour_metrics(
        None, codes, 48, returns=torch.zeros(480), modes=codes % 3, num_modes=3
    )
    assert found.commandable_modes == 3


def test_zero_is_not_negative() -> None:
    codes = torch.zeros(4, dtype=torch.int64)
    found = behaviour_metrics(
        None, codes, 1, returns=-torch.full((4,), 1e-9), modes=codes, num_modes=3
    )
    assert math.copysign(1.0, found.entropy) == 1.0
    assert "-0.000" not in found.sentence()
    assert "-0.0" not in json.dumps(found.to_dict()["mode_shares"])


@pytest.mark.parametrize(("hits", "commandable"), [(15, 0), (16, 1), (20, 1)])
def test_a_mode_is_commandable_from_exactly_four_fifths_given_some_code(
    hits: int, commandable: int
) -> None:
    success = torch.tensor([True] * hits + [False] * (20 - hits) + [True] * 8 + [False] * 12)
    codes = torch.tensor([0] * 20 + [1] * 20)
    modes = torch.zeros(40, dtype=torch.int64)
    found = behaviour_metrics(success, codes, 2, returns=torch.zeros(40), modes=modes, num_modes=4)
    assert found.commandable_modes == commandable
    assert found.present_modes == 1


def test_undecided_failures_spoil_no_mode() -> None:
    success = torch.tensor([True, True, False, False])
    modes = torch.tensor([0, 0, -1, -1])
    codes = torch.zeros(4, dtype=torch.int64)
    found = behaviour_metrics(success, codes, 1, returns=torch.zeros(4), modes=modes, num_modes=2)
    assert found.per_mode_success is not None
    assert found.per_mode_success[0] == 1.0
    assert found.mean_mode_success == 1.0
    assert (found.undecided, found.success) == (0.5, 0.5)


def test_without_any_success_nothing_is_present_and_the_dictionary_is_json() -> None:
    codes = torch.tensor([0, 1])
    found = behaviour_metrics(
        torch.zeros(2, dtype=torch.bool),
        codes,
        3,
        returns=torch.zeros(2),
        modes=torch.tensor([-1, -1]),
        num_modes=4,
    )
    assert (found.success, found.entropy, found.present_modes) == (0.0, 0.0, 0)
    assert (found.commandable_modes, found.mean_mode_success, found.undecided) == (0, 0.0, 1.0)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["per_code_return"] == [0.0, 0.0, None]


def test_without_a_label_there_are_figures_of_codes_only() -> None:
    codes = torch.tensor([0, 1, 1, 2])
    success = torch.tensor([True, False, True, True])
    found = behaviour_metrics(
        success, codes, 3, returns=torch.arange(4.0), predicted_codes=codes.clone()
    )
    assert found.per_code_success == [1.0, 0.5, 1.0]
    assert found.per_code_return == [0.0, 1.5, 3.0]
    assert found.code_shares == [0.25, 0.5, 0.25]
    p = np.array([0.25, 0.5, 0.25])
    assert found.effective_codes == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    for name in ("entropy", "present_modes", "commandable_modes", "per_mode_success", "undecided"):
        assert getattr(found, name) is None
    assert "modes" not in found.sentence()
    assert "codes 2.8" in found.sentence()


def test_without_a_success_entry_modes_count_every_episode() -> None:
    codes, modes = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, -1])
    found = behaviour_metrics(None, codes, 2, returns=torch.ones(4), modes=modes, num_modes=3)
    assert found.success is None
    assert found.per_code_success is None
    assert found.mode_shares == pytest.approx([1 / 3] * 3)
    assert found.entropy == pytest.approx(1.0)
    assert found.sentence().startswith("return 1.000, entropy 1.000, modes present 3")


def test_codes_that_nobody_can_tell_apart_are_one_effective_code() -> None:
    codes = torch.arange(8) % 4
    found = behaviour_metrics(
        None, codes, 4, returns=torch.zeros(8), predicted_codes=torch.zeros_like(codes)
    )
    assert found.effective_codes == pytest.approx(1.0)


def test_the_sentence_has_success_and_modes() -> None:
    codes = torch.zeros(4, dtype=torch.int64)
    found = behaviour_metrics(
        torch.tensor([True, True, True, False]),
        codes,
        1,
        returns=torch.zeros(4),
        modes=torch.tensor([0, 1, 0, -1]),
        num_modes=2,
    )
    assert found.sentence() == (
        "success 0.750 +- 0.217, entropy 0.918, modes present 2, commandable 0, undecided 0.250"
    )


@pytest.mark.parametrize(
    "sizes",
    [dict(codes=0), dict(returns=3), dict(success=5), dict(modes=2), dict(predicted_codes=5)],
)
def test_entries_that_disagree_are_refused(sizes: dict[str, int]) -> None:
    lengths = dict(codes=4, returns=4, success=4, modes=4, predicted_codes=4) | sizes
    values = {name: torch.zeros(size, dtype=torch.int64) for name, size in lengths.items()}
    values["success"] = values["success"].bool()
    with pytest.raises(ShapeError, match=r"of one shape \[N\] with N > 0"):
        behaviour_metrics(**values, num_codes=1, num_modes=1)


PER_CODE = (
    *("per_code_return", "per_code_success", "code_shares"),
    *("code_mode_table", "code_table"),
)
EPISODE = st.tuples(
    st.integers(0, 3), st.booleans(), st.integers(-1, 2), st.integers(-3, 3), st.integers(0, 3)
)


def _same(first: object, second: object) -> bool:
    if first is None or second is None:
        return first is second
    return bool(np.allclose(np.asarray(first), np.asarray(second), equal_nan=True))


@given(st.lists(EPISODE, min_size=1, max_size=60), st.permutations(range(4)))
def test_permuting_codes_permutes_lists_of_codes_and_nothing_else(
    rows: list[tuple[int, bool, int, int, int]], order: list[int]
) -> None:
    codes, success, modes, returns, predicted = (torch.tensor(part) for part in zip(*rows))
    renamed = torch.tensor(order)

    def judge(code: torch.Tensor, read: torch.Tensor) -> BehaviourMetrics:
        return behaviour_metrics(
            success,
            code,
            4,
            returns=returns.double(),
            modes=modes,
            num_modes=3,
            predicted_codes=read,
        )

    before, after = judge(codes, predicted), judge(renamed[codes], renamed[predicted])
    for name in before.to_dict():
        first, second = getattr(before, name), getattr(after, name)
        if name in PER_CODE:
            second = [second[order[code]] for code in range(4)]
        if name == "code_table":
            second = [[row[order[code]] for code in range(4)] for row in second]
        assert _same(first, second), name


@pytest.mark.parametrize("runs", [5, 10])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_an_interval_of_the_mean_covers_what_it_says(runs: int, confidence: float) -> None:
    """Over 4000 experiments, within three standard errors."""
    draws = np.random.default_rng(runs).normal(0.7, 0.1, (4000, runs))
    found = np.array([mean_interval(row, confidence=confidence) for row in draws])
    covered = ((found[:, 0] < 0.7) & (found[:, 1] > 0.7)).mean()
    assert covered == pytest.approx(
        confidence, abs=3 * (confidence * (1 - confidence) / 4000) ** 0.5
    )


def test_fewer_than_five_runs_have_no_interval() -> None:
    from scipy import stats

    values = [0.91, 0.95, 0.99, 0.93, 0.97]
    assert [mean_interval(values[:count]) for count in range(1, 5)] == [None] * 4
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((reference.low, reference.high))


def test_a_blocked_mode_fails() -> None:
    table = torch.tensor([[0.9, 0.0, 0.05], [0.1, 0.6, 0.0]])
    expected = [[0.05, 0.6], [0.95, 0.1], [0.9, 0.7]]
    torch.testing.assert_close(blocked_success(table), torch.tensor(expected))


@pytest.mark.parametrize(("solved", "codes", "tries"), [(2, 5, 1), (2, 5, 3), (0, 4, 2), (1, 3, 3)])
def test_of_codes_that_always_succeed_or_never_do_the_best_is_pass_at_k(
    solved: int, codes: int, tries: int
) -> None:
    success = torch.zeros(codes).index_fill(0, torch.arange(solved), 1.0)
    expected = 1 - math.comb(codes - solved, tries) / math.comb(codes, tries)
    assert float(best_of_codes(success, tries)) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(1, 6), st.integers(0, 99))
def test_the_best_of_codes_is_the_mean_over_all_choices(
    rates: list[float], tries: int, seed: int
) -> None:
    success = torch.tensor([rates, rates[::-1]], dtype=torch.float64)
    tries = min(tries, len(rates))
    by_hand = [1 - math.prod(1 - rate for rate in some) for some in combinations(rates, tries)]
    found = best_of_codes(success, tries)
    assert found.tolist() == pytest.approx([np.mean(by_hand)] * 2, abs=1e-12)


@pytest.mark.parametrize("tries", [0, 4])
def test_more_tries_than_codes_are_refused(tries: int) -> None:
    with pytest.raises(
        ConfigurationError, match=f"expected 1 to 3 tries of as many codes, got {tries}"
    ):
        best_of_codes(torch.ones(3), tries)


def test_replanning_by_hand() -> None:
    """Codes that each have a mode of their own: all are tried, the best first, one a try.

    Where mode 0 is blocked the first try fails, and what failed is likely blocked.
    """
    table = torch.diag(torch.tensor([0.9, 0.8, 0.7]).double())
    once = replanned_success(table, 1)
    assert once.tolist() == pytest.approx([0.0, 0.9, 0.9])
    # P(m | code 0 failed) is 1 : .1 : .1, so code 1 succeeds in .8 * 1.1, code 0 in .9 * .2
    twice = replanned_success(table, 2)
    assert twice.tolist() == pytest.approx([0.8, 0.9, 1 - 0.1 * 0.2])
    # then 1 * .2 : .1 : .1 * .2, so code 2 in .7 * .3, code 0 in .9 * .12, code 1 in .8 * .22
    assert replanned_success(table, 3).tolist() == pytest.approx(
        [1 - 0.2 * 0.3, 1 - 0.1 * 0.3, 1 - 0.1 * 0.2 * 1.0]
    )


def test_a_policy_of_one_code_tries_again() -> None:
    table = torch.tensor([[0.5, 0.3]]).double()
    expected = [1 - 0.7**3, 1 - 0.5**3]
    assert replanned_success(table, 3).tolist() == pytest.approx(expected)
    collapsed = torch.tensor([[1.0, 0.0]]).double()
    assert replanned_success(collapsed, 3).tolist() == [0.0, 1.0]


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_replanning_is_what_a_simulation_of_its_rule_finds(seed: int, tries: int) -> None:
    """Of every outcome of the tries, each weighed by its probability, beliefs by Bayes' rule."""
    generator = np.random.default_rng(seed)
    table = generator.dirichlet(np.ones(5), size=3)[:, :4]  # three codes, four modes, failures
    found = replanned_success(torch.from_numpy(table), tries)
    for blocked in range(4):
        belief, solved, going_on = np.full(4, 0.25), 0.0, 1.0
        for _ in range(tries):
            chances = np.array([[table[z].sum() - table[z, m] for z in range(3)] for m in range(4)])
            code = int((belief @ chances).argmax())
            solved += going_on * chances[blocked, code]
            going_on *= 1 - chances[blocked, code]
            belief = belief * (1 - chances[:, code])
            belief /= belief.sum()
        assert float(found[blocked]) == pytest.approx(solved)
    assert bool((replanned_success(torch.from_numpy(table), tries + 1) >= found - 1e-12).all())


def test_the_tables_of_figures() -> None:
    """Three episodes of code 0, one of code 1, none of code 2; failures are in neither table."""
    codes, success = torch.tensor([0, 0, 0, 1]), torch.tensor([True, True, False, True])
    found = behaviour_metrics(
        success,
        codes,
        3,
        returns=torch.zeros(4),
        modes=torch.tensor([0, 1, 0, 1]),
        num_modes=2,
        predicted_codes=torch.tensor([0, 2, 0, 1]),
    ).to_dict()
    assert found["code_table"] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    third = 1 / 3
    by_mode = [[third, third], [0.0, 1.0], [0.0, 0.0]]
    torch.testing.assert_close(success_table(found), torch.tensor(by_mode, dtype=torch.float64))
    by_code = [[third, 0.0, third], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    torch.testing.assert_close(
        success_table(found, by="code"), torch.tensor(by_code, dtype=torch.float64)
    )
    for by, needed in (("mode", "a label of modes"), ("code", "a discoverer")):
        with pytest.raises(ConfigurationError, match=f"judge the run again with {needed}"):
            success_table({"code_shares": [1.0]}, by=by)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(5, 7)), min_size=2, max_size=30))
def test_two_partitions_agree_as_in_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    first, second = map(list, zip(*pairs, strict=True))
    found = partition_agreement(torch.tensor(first), torch.tensor(second))
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(first, second), abs=1e-9)
    assert found["ari"] == pytest.approx(adjusted_rand_score(first, second), abs=1e-9)


def test_partitions_of_other_episodes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"got shapes \(3,\) and \(4,\)"):
        partition_agreement(torch.zeros(3).long(), torch.zeros(4).long())


def test_the_entropy_of_actions_is_that_of_each_state() -> None:
    """Of a Gaussian with deviation s in d dimensions it is d (1 + log 2 pi s^2) / 2."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2, 4000, 1, 2, generator=generator)
    draws[1] *= 0.1
    draws[1] += 100.0  # where a state's actions lie does not matter, nor how far states are apart
    expected = math.log(2 * math.pi * math.e) + math.log(0.1)
    assert action_entropy(draws) == pytest.approx(expected, abs=0.05)
    alone = [kozachenko_leonenko_entropy(part.flatten(1), k=5) for part in draws]
    assert action_entropy(draws, k=5) == pytest.approx(sum(alone) / 2)


def test_actions_without_entropy_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="as many equal ones as neighbours"):
        action_entropy(torch.zeros(1, 9, 3))
    with pytest.raises(ShapeError, match=r"expected chunks \[S, N, ...\], got shape \(4, 3\)"):
        action_entropy(torch.zeros(4, 3))
