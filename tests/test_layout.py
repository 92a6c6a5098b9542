from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modereg import keys
from modereg.errors import ConfigurationError, ModeregError, ShapeError
from modereg.layout import Layout
from modereg.policies import as_generative_policy
from modereg.testing import TinyPolicy

PLACE = ("agent", "position")
BASIS = torch.eye(8)[:, :3]
FULL = Layout(
    96,
    execute=8,
    offset=1,
    horizon=16,
    gamma=0.99,
    time_limit="terminates",
    observation_steps=2,
    steering_keys=(PLACE, "time"),
    feature_keys=(PLACE,),
    feature_dims=(0, 2),
    noise_basis=BASIS,
)
OTHER: dict[str, Any] = {
    "max_steps": 95,
    "execute": 7,
    "offset": 0,
    "horizon": 12,
    "gamma": 0.5,
    "time_limit": "truncates",
    "observation_steps": 1,
    "steering_keys": (PLACE,),
    "feature_keys": ("time",),
    "feature_dims": (0,),
    "noise_basis": None,
}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_steps": 0}, "expected max_steps of at least 1, got 0"),
        ({"max_steps": None}, "expected max_steps of at least 1, got None"),
        ({"max_steps": 2.5}, "expected max_steps of at least 1, got 2.5"),
        ({"max_steps": True}, "expected max_steps of at least 1, got True"),
        ({"execute": 0}, "expected execute of at least 1, got 0"),
        ({"offset": -1}, "expected offset of at least 0, got -1"),
        ({"horizon": 0}, "expected horizon of at least 1, got 0"),
        ({"observation_steps": 0}, "expected observation_steps of at least 1, got 0"),
        ({"gamma": 1.5}, r"expected a discount in \[0, 1\], got gamma=1.5"),
        ({"gamma": float("nan")}, r"expected a discount in \[0, 1\], got gamma=nan"),
        ({"time_limit": "explodes"}, "'terminates' or 'truncates', got 'explodes'"),
        ({"steering_keys": ()}, "expected steering_keys of at least one entry, got none"),
        ({"feature_keys": []}, "expected feature_keys of at least one entry, got none"),
        ({"feature_dims": ()}, "expected feature_dims of at least one entry, got none"),
        ({"horizon": 8, "execute": 8, "offset": 1}, r"offset \+ execute = 9 actions, got .* of 8;"),
        ({"horizon": 2, "offset": 2}, r"at least offset \+ execute = 3 actions"),
    ],
)
def test_a_field_out_of_range_is_answered_in_a_sentence(options: dict, sentence: str) -> None:
    with pytest.raises(ModeregError, match=sentence) as caught:
        Layout(**({"max_steps": 9} | options))
    assert "\n" not in str(caught.value)


def test_it_is_frozen_and_single_entries_are_lists_of_one() -> None:
    layout = Layout(9, steering_keys="observation", feature_dims=3, feature_keys=[PLACE])
    assert layout.steering_keys == ("observation",)
    assert layout.feature_dims == (3,)
    assert layout.feature_keys == (PLACE,)
    with pytest.raises(FrozenInstanceError):
        layout.max_steps = 3  # type: ignore[misc]


@given(st.integers(1, 200), st.integers(1, 20))
def test_the_longest_episode_in_decisions(max_steps: int, execute: int) -> None:
    found = Layout(max_steps, execute=execute).max_decisions
    assert (found - 1) * execute < max_steps <= found * execute


@pytest.mark.parametrize("name", ["max_decisions", "played", "steered_by", "features"])
def test_what_the_policy_decides_is_asked_for(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"leaves it to the policy; call .*for_policy"):
        getattr(Layout(9), name)


def test_a_policy_decides_what_is_left_open() -> None:
    layout = Layout(10).for_policy(TinyPolicy(2, (5, 2)))
    assert (layout.horizon, layout.execute, layout.observation_steps) == (5, 5, 1)
    assert (layout.max_decisions, layout.chunk_length) == (2, 5)
    assert layout.steered_by == layout.features == [keys.OBSERVATION]
    assert Layout(10, offset=2).for_policy(TinyPolicy(2, (5, 2))).played == 3
    said = Layout(10, execute=2, steering_keys=("a",), feature_keys=("b",))
    narrowed = said.for_policy(TinyPolicy(2, (5, 2)))
    assert (narrowed.played, narrowed.steered_by, narrowed.features) == (2, ["a"], ["b"])
    assert narrowed.for_policy(TinyPolicy(2, (5, 2))) == narrowed


def test_where_time_ends_an_episode_it_is_steered_by() -> None:
    policy = TinyPolicy(2)
    ending = Layout(9, time_limit="terminates").for_policy(policy)
    assert ending.steered_by == [keys.OBSERVATION, keys.ELAPSED]
    assert ending.for_policy(policy).steered_by == ending.steered_by  # once
    assert ending.features == [keys.OBSERVATION]
    assert Layout(9).for_policy(policy).steered_by == [keys.OBSERVATION]


def test_a_policy_that_does_not_fit_is_refused() -> None:
    two = as_generative_policy(
        lambda noise, seen: noise, in_keys=["observation"], noise_shape=(4, 2), chunk_shape=(4, 2),
        observation_steps=2,
    )  # fmt: skip
    assert Layout(9).for_policy(two).observation_steps == 2
    with pytest.raises(ConfigurationError, match="that reads 1 observations.* that reads 2; leave"):
        Layout(9, observation_steps=1).for_policy(two)
    for layout in (Layout(9, execute=5), Layout(9, offset=4), Layout(9, execute=3, offset=2)):
        with pytest.raises(ShapeError, match="lower execute or offset"):
            layout.for_policy(TinyPolicy(2))
    with pytest.raises(ShapeError, match="at least 8 actions, of which 0 to 7 are played, got Tin"):
        Layout(9, execute=8, horizon=16).for_policy(TinyPolicy(2))


@pytest.mark.parametrize("name", [entry.name for entry in fields(Layout)])
def test_differences_name_the_field_and_nothing_else(name: str) -> None:
    other = replace(FULL, **{name: OTHER[name]})
    found = FULL.differences(other)
    assert other != FULL
    assert FULL == replace(FULL)
    if name == "gamma":  # what was learned under one discount acts alike under another
        assert found == []
        return
    assert len(found) == 1
    assert found[0].startswith(f"{name} ")
    if name != "noise_basis":
        assert found[0] == f"{name} {getattr(FULL, name)!r} and {OTHER[name]!r}"


def test_bases_are_compared_by_what_they_hold() -> None:
    assert FULL == replace(FULL, noise_basis=BASIS.clone())
    assert FULL.differences(replace(FULL, noise_basis=None)) == [
        "noise_basis of shape (8, 3) and None"
    ]
    assert FULL.differences(replace(FULL, noise_basis=BASIS[:, :2])) == [
        "noise_basis of shape (8, 3) and of shape (8, 2)"
    ]
    assert FULL.differences(replace(FULL, noise_basis=-BASIS))
    assert replace(FULL, noise_basis=None) == replace(FULL, noise_basis=None)
    assert FULL != "a layout"
    assert hash(FULL) == hash(replace(FULL))


@pytest.mark.parametrize("layout", [FULL, Layout(3), Layout(7, feature_dims=(1,), gamma=1.0)])
def test_it_comes_back_from_json(layout: Layout) -> None:
    config = json.loads(json.dumps(layout.to_config()))
    found = Layout.from_config(config, layout.noise_basis)
    assert found == layout
    assert found.steering_keys == layout.steering_keys
    assert "noise_basis" not in config


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda c: c.pop("offset"), "expected a layout's entries"),
        (lambda c: c.update(colour="red"), "expected a layout's entries"),
        (lambda c: c.update(execute="many"), "expected execute of at least 1, got 'many'"),
        (lambda c: c.update(max_steps=None), "expected max_steps of at least 1, got None"),
        (lambda c: c.update(steering_keys=[3]), "steering_keys of names of entries, got 3"),
        (lambda c: c.update(steering_keys=[[]]), "expected steering_keys of names of entries, got"),
        (lambda c: c.update(steering_keys=3), "expected steering_keys of names"),
        (lambda c: c.update(feature_keys=[["a", 3]]), "expected feature_keys of names"),
        (lambda c: c.update(feature_dims=["x"]), "feature_dims"),
        (lambda c: c.update(feature_dims=[-1]), "feature_dims"),
        (lambda c: c.update(gamma="most"), "gamma"),
    ],
)
def test_a_damaged_layout_is_named(damage: Any, sentence: str) -> None:
    config = FULL.to_config()
    damage(config)
    with pytest.raises(ConfigurationError, match=sentence):
        Layout.from_config(config)
    with pytest.raises(ConfigurationError, match="expected a layout's entries .*got list"):
        Layout.from_config([])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [torch.eye(8)[0], "basis", 3])
def test_a_basis_is_a_matrix(value: Any) -> None:
    with pytest.raises(ShapeError, match="noise_basis"):
        Layout(9, noise_basis=value)
