from __future__ import annotations

import math
from typing import Any

import pytest

from modereg.recipes.inspect_table import _unplayed, advise, behaviours, table

LAYOUT = {
    "horizon": 8,
    "executed": 6,
    "offset": 1,
    "action_dims": 2,
    "noise_shape": [8, 2],
    "observations": {"observation": [4], "camera.rgb": [3, 9, 9]},
    "max_decisions": 12,
}


def result(nats: float, spread: dict[str, Any], noises: int = 32) -> dict[str, Any]:
    rows = [
        {"smoothing": level, "nats": value, "standard_error": 0.01}
        for level, value in ((0.4, nats), (0.1, math.log(noises)))
    ]
    return {
        "base": "runs/base",
        "task": "avoid",
        "layout": LAYOUT,
        "deterministic": True,
        "sampled": {"mean_return": 0.5, "success": 0.62, "success_error": 0.01},
        "spread": spread,
        "noise": {
            "noises": noises,
            "limit": math.log(noises),
            "information": rows,
            "commandable_modes": 7,
        },
    }


def test_the_advice_warns_of_what_would_not_work_whatever_the_noise_decides() -> None:
    good = result(3.0, modes(22))
    assert "But" not in advise(good | {"sampled": good["sampled"] | {"clipped_share": 0.4}})
    bad = good["sampled"] | {"success": 0.0, "clipped_share": 0.93}
    said = advise(good | {"sampled": bad})
    assert said.startswith("Steerable")
    assert "93 % of the action components had to be clipped" in said
    assert "no episode succeeded" in said
    unknown = good["sampled"] | {"success": None}
    assert "But" not in advise(good | {"sampled": unknown})


def modes(present: int) -> dict[str, Any]:
    return {"present_modes": present, "num_modes": 24, "entropy": 0.953}


@pytest.mark.parametrize(
    ("nats", "present", "start", "codes"),
    [
        (0.0, 4, "Hardly steerable", None),
        (0.099 * math.log(4), 4, "Hardly steerable", None),
        (0.2 * math.log(4), 4, "Partly steerable", "try 8 codes"),
        (0.51 * math.log(4), 4, "Steerable:", "try 8 codes"),
        (0.51 * math.log(22), 22, "Steerable:", "try 44 codes"),
        (0.51 * math.log(32), 64, "Steerable:", "try 128 codes"),
        (math.log(32), 1, "Steerable, but with one behaviour", None),
    ],
)
def test_the_advice_goes_by_the_coarsest_smoothing_and_what_there_is_to_decide(
    nats: float, present: int, start: str, codes: str | None
) -> None:
    advice = advise(result(nats, modes(present)))
    assert advice.startswith(start)
    assert f"decide {nats:.2f} of at most 3.47 nats" in advice
    assert ("try" in advice) == (codes is not None)
    assert codes is None or codes in advice


def test_clusters_stand_in_for_modes() -> None:
    spread = {"clusters": 5, "silhouette": 0.4}
    assert (behaviours(modes(3)), behaviours(spread)) == (3, 5)
    assert "try 10 codes" in advise(result(2.0, spread))
    assert "behaviours  5 clusters, silhouette 0.40\n" in table(
        result(2.0, spread) | {"advice": ""}
    )
    bundle = table(result(0.0, {"clusters": 1, "silhouette": 0.34}) | {"advice": ""})
    assert "1: a silhouette of 0.34 at most, as one bundle of episodes has" in bundle
    alike = {"clusters": 1, "silhouette": None}
    assert "1, all episodes being alike" in table(result(0.0, alike) | {"advice": ""})


def test_the_table_is_short_and_ends_with_the_advice() -> None:
    shown = table(result(1.5, modes(22)) | {"advice": "Do this."})
    assert shown.splitlines() == [
        "base        runs/base on avoid",
        "chunk       8 actions of 2 dimensions, 6 played from 1 on",
        "reads       observation [4], camera.rgb [3, 9, 9]",
        "noise       [8, 2], deterministic: yes",
        "return      0.500",
        "success     0.620 +- 0.010",
        "behaviours  22 of 24 modes, entropy 0.953",
        "decided     1.50 at 0.4, 3.47 at 0.1 of the scale; at most 3.47 nats, of 32 held noises",
        "commanded   7 modes by a held noise",
        "",
        "Do this.",
    ]


def test_a_stochastic_policy_has_only_its_layout() -> None:
    whole = result(1.0, modes(2)) | {"deterministic": False, "advice": "Not steerable."}
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
