from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from modereg import plugins
from modereg.errors import ModeregError
from modereg.estimators import estimator_class
from modereg.layout import Layout
from modereg.reading import require
from modereg.recipes.config import FinetuneConfig, from_yaml
from modereg.suggestions import did_you_mean, with_shape_suggestion, with_suggestion
from modereg.tasks.gaussian_mixture import GaussianMixture
from modereg.testing import TinyPolicy
from modereg.wrapping import steer_env

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
        ("PushT", ["gym_pusht/PushT-v0", "Pendulum-v1"], "'gym_pusht/PushT-v0'"),
        ("runs/bse", ["runs/base", "runs/stage1"], "'runs/base'"),
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


def _observe(key: str) -> None:
    require(TensorDict({"observation": torch.zeros(3, 2)}, [3]), key, "the critic")


def _steer(*keys: str) -> None:
    env = GaussianMixture(2)
    steer_env(env, TinyPolicy(2, observation_keys=list(keys)), 2, Layout(24, execute=4))


def _decode(*shape: int) -> None:
    data = TensorDict({"observation": torch.zeros(3, 2)}, [3])
    TinyPolicy(2).decode_from(data, torch.zeros(shape))


@pytest.mark.parametrize(
    ("mistake", "answer"),
    [
        (lambda: _observe("observations"), "'observation'?"),
        (lambda: _steer("observatoin"), "'observation'?"),
        (lambda: _decode(3, 8), ".reshape(3, 4, 2)?"),
        (lambda: _decode(3, 2, 4), ".mT, the last two"),
        (lambda: _decode(3, 1, 4, 2), ".squeeze(1)?"),
        (lambda: estimator_class("contrastiv"), "'contrastive'?"),
        (
            lambda: from_yaml(FinetuneConfig, "learner: {name: ppo, learning-rate: 1}"),
            "'learning_rate'?",
        ),
        (lambda: plugins.policy_loader("difusers"), "'diffusers'?"),
        (lambda: plugins.resolve_task("gymnasium:Pendulum-v9"), "'Pendulum-v1'?"),
        (lambda: plugins.resolve_task("gymnasium:Pendulm-v1"), "Pendulum"),
        (lambda: plugins.resolve_task("gymnasum:Pendulum-v1"), "'gymnasium'?"),
        (lambda: plugins.resolve_task("mujoco:point_maze", max_step=3), "'max_steps'?"),
        (lambda: plugins.resolve_task("task:avoid", pay_sprea=3), "'pay_spread'?"),
    ],
)
def test_where_names_and_shapes_are_given(mistake: Callable[[], Any], answer: str) -> None:
    with pytest.raises(ModeregError, match="Did you mean") as caught:
        mistake()
    assert f"Did you mean {answer}" in str(caught.value).replace("mean: `", "mean ")


def test_a_folder_beside_the_policy_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base" / "policy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    Path("factories.py").write_text("")
    for reference, answer in [
        ("bass", "'base'?"),
        ("base", "'base/policy'?"),
        ("factorys:policy", "'factories'?"),
    ]:
        with pytest.raises(ModeregError) as caught:
            plugins.resolve_policy(reference)
        assert str(caught.value).endswith(f" Did you mean {answer}")
