from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score

from modereg.errors import ShapeError
from modereg.metrics import (
    BehaviourMetrics,
    behaviour_metrics,
    mean_interval,
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


PER_CODE = ("per_code_return", "per_code_success", "code_shares", "code_mode_table")
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
