from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from modereg.recipes.inspect_table import _unplayed, advise, table

LAYOUT = {
    "horizon": 8,
    "executed": 6,
    "offset": 1,
    "action_dims": 2,
    "noise_shape": [8, 2],
    "observations": {"observation": [4], "camera.rgb": [3, 9, 9]},
    "max_decisions": 12,
    "features": {"keys": ["observation"], "dims": [0, 1, 3]},
}


def result(reached: Sequence[tuple[float, float]] | None, **spread: Any) -> dict[str, Any]:
    """Return a result with codes of these shares and reaches, or without codes."""
    codes = [
        {"code": code, "share": share, "reach": reach, "error": 0.04}
        for code, (share, reach) in enumerate(reached or ())
    ]
    figures = {"outcome_nll": 0.63, "class_share_nll": 1.6, "draws": 16, "decodes": 7000}
    return {
        "base": "runs/base",
        "task": "avoid",
        "layout": LAYOUT,
        "deterministic": True,
        "sampled": {
            "mean_return": 0.5, "success": 0.62, "success_error": 0.01, "episodes": 1024,
        },
        "spread": {"clusters": max(len(codes), 1), "silhouette": 0.4} | spread,
        "reach": None if reached is None else figures | {"codes": codes},
        "env_steps": 61673,
    }  # fmt: skip


ABLE, UNABLE, RARE = (0.3, 0.9), (0.04, 0.2), (0.01, 0.06)


def test_the_advice_warns_of_what_would_not_work_whatever_the_noise_decides() -> None:
    good = result([ABLE, ABLE])
    assert "But" not in advise(good | {"sampled": good["sampled"] | {"clipped_share": 0.4}})
    bad = good["sampled"] | {"success": 0.0, "clipped_share": 0.93}
    said = advise(good | {"sampled": bad})
    assert said.startswith("Steerable")
    assert "93 % of the action components had to be clipped" in said
    assert "no episode succeeded" in said
    unknown = good["sampled"] | {"success": None}
    assert "But" not in advise(good | {"sampled": unknown})


@pytest.mark.parametrize(
    ("reached", "said"),
    [
        ([ABLE] * 6, "Steerable: noise can command all 6 behaviours."),
        ([ABLE] * 4 + [UNABLE] * 2, "Partly steerable: noise can command 4 of 6 behaviours. For "
         "the other 2 the best of 16 noises raises the chance from 0.04 to about 0.20"),
        ([UNABLE] * 3, "Hardly steerable: noise can command none of 3 behaviours. For the 3 the"),
        ([(0.5, 0.5), (0.2, 0.49)], "Partly steerable: noise can command 1 of 2"),
        (None, "One behaviour: there is nothing to choose between"),
    ],
)  # fmt: skip
def test_the_advice_says_what_noise_can_command(
    reached: list[tuple[float, float]] | None, said: str
) -> None:
    advice = advise(result(reached))
    assert advice.startswith(said)
    assert ("a residual on the chunk" in advice) == ("teerable" in said and "all" not in said)


def test_behaviours_that_were_hardly_seen_are_named() -> None:
    assert "Of these 1 were seen in fewer than 20 episodes" in advise(result([ABLE, UNABLE, RARE]))
    assert "episodes" not in advise(result([ABLE, UNABLE]))


def test_clusters_stand_beside_modes() -> None:
    shown = table(result([ABLE] * 5) | {"advice": ""})
    assert "behaviours  5 clusters, silhouette 0.40\n" in shown
    bundle = table(result(None) | {"advice": ""})
    assert "behaviours  1: nothing tells the episodes from one bundle\n" in bundle
    assert "reach" not in bundle
    alike = table(result(None, silhouette=None) | {"advice": ""})
    assert "1, all episodes being alike" in alike


def test_the_table_is_short_and_ends_with_the_advice() -> None:
    spread = {"present_modes": 3, "num_modes": 6, "entropy": 0.953}
    shown = table(result([UNABLE, ABLE], **spread) | {"advice": "Do this."})
    assert shown.splitlines() == [
        "base        runs/base on avoid",
        "chunk       8 actions of 2 dimensions, 6 played from 1 on",
        "reads       observation [4], camera.rgb [3, 9, 9]",
        "noise       [8, 2], deterministic: yes",
        "feature     observation, dimensions 0, 1, 3",
        "return      0.500",
        "success     0.620 +- 0.010",
        "behaviours  2 clusters, silhouette 0.40; 3 of 6 modes, entropy 0.953",
        "outcomes    of 1.60 nats 0.63 are open once a chunk is known",
        "reach       chance under the base, and by the best of 16 noises",
        "  1         0.30 -> 0.90 +- 0.04",
        "  0         0.04 -> 0.20 +- 0.04",
        "cost        61673 environment steps of 1024 episodes",
        "",
        "Do this.",
    ]


def test_of_many_behaviours_those_that_noise_commands_share_a_line() -> None:
    shown = table(result([ABLE] * 20 + [UNABLE]) | {"advice": ""})
    assert "  20        0.04 -> 0.20 +- 0.04\n  others    0.30 -> 0.90, the mean of 20\n" in shown


def test_a_stochastic_policy_has_only_its_layout() -> None:
    whole = result([ABLE]) | {"deterministic": False, "advice": "Not steerable."}
    short = {key: whole[key] for key in ("base", "task", "layout", "deterministic", "advice")}
    shown = table(short)
    assert "deterministic: no" in shown
    assert "return" not in shown


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({"observation_steps": 2, "offset": 0, "horizon": 16, "executed": 8}, "--task.offset 1"),
        ({"observation_steps": 2, "offset": 1, "horizon": 16, "executed": 8}, None),
        ({"observation_steps": 1, "offset": 0, "horizon": 16, "executed": 4}, "--task.execute"),
        ({"observation_steps": 1, "offset": 0, "horizon": 8, "executed": 8}, None),
    ],
)
def test_what_is_often_forgotten_of_a_layout_is_named(
    layout: dict[str, Any], said: str | None
) -> None:
    found = " ".join(_unplayed(layout))
    assert (said in found) if said else not found
