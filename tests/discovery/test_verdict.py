from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from modereg.discovery import ClusterModeDiscoverer
from modereg.discovery.verdict import Verdict, verdict_of
from tests.discovery.places import BASE, codes_of, episodes_to, stage_of

FIGURES = {"success": 0.9, "entropy": 0.8}
EVEN = torch.tensor([0.3, 0.3, 0.3, 0.1])


def of(first: list[float], base: Tensor = EVEN, chance: float | None = None) -> Verdict:
    """Return the verdict where code 0 leads to this, and the others command."""
    table = torch.eye(3, 4)
    table[0] = torch.tensor(first)
    shares = None if chance is None else torch.full((3,), chance)
    steered = torch.tensor([False, True, True])
    base_figures = {"success": 0.7, "entropy": 0.9}
    return verdict_of(table, base, steered, 1000, 1200, FIGURES, base_figures, shares)


@pytest.mark.parametrize(
    ("first", "base", "chance", "reason"),
    [
        ([0.8, 0.0, 0.0, 0.2], EVEN, None, ""),
        ([0.79, 0.1, 0.1, 0.01], EVEN, 0.9, "nearly"),
        ([0.1, 0.0, 0.0, 0.9], torch.tensor([0.019, 0.3, 0.3, 0.381]), 0.9, "few episodes"),
        ([0.3, 0.3, 0.3, 0.1], EVEN, 0.6, "chance"),
        ([0.1, 0.9, 0.0, 0.0], EVEN, 0.4, "feature"),
        ([0.1, 0.9, 0.0, 0.0], EVEN, None, "feature"),
        ([0.1, 0.15, 0.0, 0.75], EVEN, 0.4, "noise"),
        ([0.1, 0.0, 0.0, 0.9], EVEN, None, "noise"),  # what fails is no other code
    ],
)
def test_why_a_code_does_not_command(
    first: list[float], base: Tensor, chance: float | None, reason: str
) -> None:
    found = of(first, base, chance)
    assert [code.reason for code in found.codes] == [reason, "", ""]
    assert [code.commands for code in found.codes] == [not reason, True, True]
    assert [code.steered for code in found.codes] == [False, True, True]
    assert found.codes[0].hits == pytest.approx(first[0])
    assert found.codes[0].base == pytest.approx(float(base[0]))
    assert found.commanding == 3 - bool(reason)


def test_it_says_so_in_sentences_with_what_to_do() -> None:
    text = str(of([0.1, 0.9, 0.0, 0.0]))
    first, second = text.splitlines()
    assert first == (
        "2 of 3 codes command; success 0.900 beside the base's 0.700, entropy of the codes 0.80 "
        "beside 0.90."
    )
    assert second.startswith("Not commanded, feature: 0 (0.10, base 0.30). Its episodes are told")
    assert str(of([1.0, 0.0, 0.0, 0.0])).count("\n") == 0


def test_a_lower_success_is_said() -> None:
    """Fine within two standard errors of the difference (.0204 here), and worse below."""
    base, steered = {"success": 0.9, "entropy": 0.8}, torch.ones(3, dtype=torch.bool)

    def with_success(success: float) -> Verdict:
        figures = {"success": success, "entropy": 0.9}
        return verdict_of(torch.eye(3, 4), EVEN, steered, 2048, 1200, figures, base, None)

    assert not with_success(0.88).worse
    assert with_success(0.87).worse
    assert "Worse than the base: success is below" in str(with_success(0.87))


def test_a_behaviour_that_is_hardly_left_is_said() -> None:
    """A rare one that its code cannot command is thinned out by those that can."""
    base, figures = torch.tensor([0.44, 0.44, 0.02, 0.1]), {"success": 0.9, "entropy": 0.8}
    table, steered = torch.eye(3, 4), torch.tensor([True, True, False])
    table[2] = base
    found = verdict_of(table, base, steered, 2048, 1200, figures, figures, None)
    assert found.lost == (2,)
    assert found.worse
    assert "of code 2, which the base shows, less than 1% of the successes are left" in str(found)
    table[2] = torch.tensor([0.4, 0.4, 0.1, 0.1])
    assert not verdict_of(table, base, steered, 2048, 1200, figures, figures, None).worse


def test_it_goes_into_a_summary() -> None:
    found = json.loads(json.dumps(of([0.1, 0.9, 0.0, 0.0]).to_dict()))
    assert found["text"].startswith("2 of 3 codes command")
    assert found["base_success"] == 0.7
    assert found["codes"][0] == {
        "code": 0,
        "hits": pytest.approx(0.1),
        "base": pytest.approx(0.3),
        "steered": False,
        "commands": False,
        "reason": "feature",
        "chance": None,
    }


def test_the_judge_gives_it_of_what_it_judged_last(placed: ClusterModeDiscoverer) -> None:
    stage, order = stage_of(placed), codes_of(placed)
    stage.compare_with(episodes_to(placed, [0] * 540 + [1] * 54 + [2] * 6, BASE))
    reached = [0] * 200 + [1] * 120 + [0] * 280
    row = stage.judge(episodes_to(placed, reached, BASE))
    stage.settle(row, 600)
    found = stage.verdict(row)
    reasons = [found.codes[code].reason for code in order.tolist()]
    assert reasons == ["", "nearly", "few episodes"]
    assert [found.codes[code].base for code in order.tolist()] == pytest.approx([0.9, 0.09, 0.01])
    assert found.commanding == 1
    assert (found.success, found.base_success) == (1.0, 1.0)
