from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modereg.discovery import ClusterModeDiscoverer
from modereg.discovery.verdict import Verdict, losses, verdict_of
from tests.discovery.places import BASE, codes_of, episodes_to, stage_of

FIGURES = {"success": 0.9, "entropy": 0.8}
ALIKE = torch.full((3,), 1 / 3)
EVEN = torch.tensor([0.3, 0.3, 0.3, 0.1])


def of(first: list[float], base: Tensor = EVEN, chance: float | None = None) -> Verdict:
    """Return the verdict where code 0 leads to this, and the others command."""
    table = torch.eye(3, 4)
    table[0] = torch.tensor(first)
    shares = None if chance is None else torch.full((3,), chance)
    steered = torch.tensor([False, True, True])
    base_figures = {"success": 0.7, "entropy": 0.9}
    return verdict_of(table, base, steered, ALIKE, 1000, 1200, FIGURES, base_figures, shares)


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
    """At .9 of 2048 and of 1200 episodes, two standard errors of the difference are .022."""

    def at(success: float) -> tuple[str, ...]:
        table = torch.cat([success * torch.eye(3), torch.full((3, 1), 1 - success)], -1)
        return losses(ALIKE @ table, EVEN, 1200, 2048)

    assert at(0.95) == at(0.88) == ()
    assert at(0.87) == ("Worse than the base: success 0.870 instead of 0.900.",)


def test_a_behaviour_that_is_hardly_left_is_said() -> None:
    """A rare one that its code cannot command is thinned out by those that can."""
    base, table = torch.tensor([0.44, 0.44, 0.02, 0.1]), torch.eye(3, 4)
    table[2] = base
    (found,) = losses(ALIKE @ table, base, 1200, 2048)
    assert "less than 1% of the successes" in found
    assert "left of code 2." in found
    wanted = torch.tensor([True, True, False])
    assert losses(ALIKE @ table, base, 1200, 2048, wanted=wanted) == ()
    assert losses(ALIKE @ table, base, 1200, 2048, wanted=~wanted) == (found,)
    table[2] = torch.tensor([0.4, 0.4, 0.1, 0.1])
    assert losses(ALIKE @ table, base, 1200, 2048) == ()


def test_a_base_that_never_succeeds_has_nothing_to_lose() -> None:
    nothing = torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert losses(nothing, nothing, 1200, 2048) == ()


def test_losses_are_in_the_verdict() -> None:
    table, steered = torch.eye(3, 4), torch.zeros(3, dtype=torch.bool)
    table[:, 2] = 0.0
    found = verdict_of(table, EVEN, steered, ALIKE, 1000, 1200, FIGURES, FIGURES, None)
    assert found.losses == losses(ALIKE @ table, EVEN, 1200, 1000)
    assert len(found.losses) == 2
    more = found.with_losses([found.losses[0], "Worse than the base: mode 7."])
    assert more.losses == (*found.losses, "Worse than the base: mode 7.")
    assert more.to_dict()["text"].count("Worse than the base") == 3
    assert all(loss in str(found) for loss in found.losses)


def test_what_is_drawn_more_often_is_said_and_loses_nothing() -> None:
    base, table = torch.tensor([0.44, 0.44, 0.024, 0.096]), torch.eye(3, 4)
    table[2] = base
    often = torch.tensor([0.25, 0.25, 0.5])
    assert len(losses(ALIKE @ table, base, 1200, 2048)) == 1
    assert losses(often @ table, base, 1200, 2048) == ()
    steered = torch.tensor([True, True, False])
    found = verdict_of(table, base, steered, often, 1000, 1200, FIGURES, FIGURES, None)
    assert "so that what they alone do is not lost: 2 (0.50) of the episodes" in str(found)
    assert "Drawn more often" not in str(of([0.1, 0.9, 0.0, 0.0]))


def test_no_residual_is_offered_to_who_has_one() -> None:
    found = of([0.3, 0.3, 0.3, 0.1], EVEN, 0.6)
    assert "--method.residual" in str(found)
    moved = str(replace(found, residual=True))
    assert "--method.residual" not in moved
    assert "Not commanded, chance: 0 (0.30, base 0.30). What the environment does" in moved


def test_a_mode_is_called_a_mode() -> None:
    after = torch.tensor([0.9, 0.0, 0.0, 0.1])
    (found,) = losses(after, EVEN, 1200, 2048, of="mode")
    assert "of the successes are left of mode 1, 2." in found


def test_it_goes_into_a_summary() -> None:
    given = of([0.1, 0.9, 0.0, 0.0]).to_dict()
    found = json.loads(json.dumps(given))
    assert found == given
    assert found["text"].startswith("2 of 3 codes command")
    assert found["base_success"] == 0.7
    assert found["codes"][0] == {
        "code": 0,
        "hits": pytest.approx(0.1),
        "base": pytest.approx(0.3),
        "steered": False,
        "share": pytest.approx(1 / 3),
        "commands": False,
        "reason": "feature",
        "chance": None,
    }


def test_the_judge_gives_it_of_what_it_judged_last(placed: ClusterModeDiscoverer) -> None:
    stage, order = stage_of(placed), codes_of(placed)
    stage.compare_with(episodes_to(placed, [0] * 540 + [1] * 54 + [2] * 6, BASE))
    reached = [0] * 200 + [1] * 120 + [0] * 280
    row = stage.judge(episodes_to(placed, reached, BASE))
    stage.settle()
    found = stage.verdict(row)
    reasons = [found.codes[code].reason for code in order.tolist()]
    assert reasons == ["", "nearly", "few episodes"]
    assert [found.codes[code].base for code in order.tolist()] == pytest.approx([0.9, 0.09, 0.01])
    assert found.commanding == 1
    assert (found.success, found.base_success) == (1.0, 1.0)
