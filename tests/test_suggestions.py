from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg.suggestions import did_you_mean, with_shape_suggestion, with_suggestion

KEYS = ["observation", ("agent", "pose"), "agent_pos", "environment_state", ("next", "reward")]


@pytest.mark.parametrize(
    ("wrong", "known", "answer"),
    [
        ("finetun", ["finetune", "pretrain"], "'finetune'"),
        ("Observation", KEYS, "'observation'"),
        ("agent-pos", KEYS, "'agent_pos'"),
        ("pose", KEYS, "('agent', 'pose')"),
        (("agent", "pos"), KEYS, "'agent_pos'"),
        (("obs", "environment_state"), KEYS, "'environment_state'"),
        ("PushT-v0", ["gym_pusht/PushT-v0", "Pendulum-v1"], "'gym_pusht/PushT-v0'"),
        ("Pendulm", ["gym_pusht/PushT-v0", "Pendulum-v1"], "'Pendulum-v1'"),
    ],
)
def test_the_nearest_name_is_suggested(wrong: Any, known: list[Any], answer: str) -> None:
    assert did_you_mean(wrong, known) == f" Did you mean {answer}?"


@pytest.mark.parametrize("wrong", ["colour", "", "observation", []])
def test_nothing_near_is_no_suggestion(wrong: Any) -> None:
    assert did_you_mean(wrong, KEYS) == ""
    assert with_suggestion("what came; do this", wrong, KEYS) == "what came; do this"


def test_of_several_wrong_names_each_gets_its_own() -> None:
    wrong = ["agent_poss", "colour", "observatio"]
    sentence = with_suggestion("some are missing; rename them.", wrong, KEYS)
    assert sentence == (
        "some are missing; rename them. "
        "Did you mean 'agent_pos' for 'agent_poss' and 'observation' for 'observatio'?"
    )


@given(st.lists(st.integers(1, 4), max_size=4), st.lists(st.integers(1, 4), max_size=4))
def test_a_suggested_change_gives_the_shape(got: list[int], expected: list[int]) -> None:
    sentence = with_shape_suggestion("wrong", got, expected)
    if sentence == "wrong":
        return
    change = sentence.removeprefix("wrong. Did you mean ").removesuffix("?").split(", the last")[0]
    assert tuple(eval(f"value{change}", {"value": torch.zeros(got)}).shape) == tuple(expected)


@pytest.mark.parametrize(
    ("got", "expected", "change"),
    [
        ((8, 2, 16), (8, 16, 2), ".mT"),
        ((16, 2), (1, 16, 2), ".unsqueeze(0)"),
        ((8, 1, 16, 2), (8, 16, 2), ".squeeze(1)"),
        ((8, 32), (8, 16, 2), ".reshape(8, 16, 2)"),
        ((8, 31), (8, 16, 2), None),
        ((8, 16, 2), (8, 16, 2), None),
        ((3, 4), (2, 6), None),
    ],
)
def test_shapes(got: tuple[int, ...], expected: tuple[int, ...], change: str | None) -> None:
    sentence = with_shape_suggestion("wrong", got, expected)
    assert (f"Did you mean {change}" in sentence) if change else (sentence == "wrong")
