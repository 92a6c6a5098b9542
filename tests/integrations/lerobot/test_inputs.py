"""Observations become the flat batch of LeRobot, or are refused by name."""

from __future__ import annotations

import pytest
import torch
from tensordict import NonTensorData, NonTensorStack, TensorDict

from modereg.errors import ConfigurationError, ShapeError
from modereg_integrations.flows import flat_texts
from modereg_integrations.lerobot.inputs import flatten_feature

VECTOR = {"image": False, "resizes": False}
IMAGE = {"image": True, "history": 0}


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_a_batch_of_any_rank_is_flattened(batch: tuple[int, ...]) -> None:
    value = torch.randn(*batch, 4)
    found, flat = flatten_feature("state", value, (4,), history=0, **VECTOR)
    assert found == torch.Size(batch)
    torch.testing.assert_close(flat, value.reshape(-1, 4))


def test_a_history_is_kept_and_one_step_gets_a_dimension() -> None:
    value = torch.randn(2, 3, 5, 4)
    found, flat = flatten_feature("state", value, (4,), history=5, **VECTOR)
    assert (found, flat.shape) == (torch.Size([2, 3]), (6, 5, 4))
    found, flat = flatten_feature("state", value, (4,), history=1, **VECTOR)
    assert (found, flat.shape) == (torch.Size([2, 3, 5]), (30, 1, 4))


def test_bytes_are_scaled_and_floats_are_not() -> None:
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(2, 3, 4, 4)
    _, scaled = flatten_feature("top", image, (3, 4, 4), resizes=False, **IMAGE)
    torch.testing.assert_close(scaled[0, :, 0, 0], torch.tensor([0.0, 0.2, 1.0]))
    _, same = flatten_feature("top", scaled, (3, 4, 4), resizes=False, **IMAGE)
    assert torch.equal(same, scaled)


def test_images_of_another_size_are_for_policies_that_resize() -> None:
    image = torch.rand(2, 3, 8, 6)
    _, flat = flatten_feature("top", image, (3, 4, 4), resizes=True, **IMAGE)
    assert flat.shape == (2, 3, 8, 6)
    with pytest.raises(ShapeError, match=r"'top' of shape \[\*B, 3, 4, 4\], got \[2, 3, 8, 6\]"):
        flatten_feature("top", image, (3, 4, 4), resizes=False, **IMAGE)
    with pytest.raises(ShapeError, match="'top' of shape"):
        flatten_feature("top", image.movedim(1, -1), (3, 4, 4), resizes=True, **IMAGE)


def test_other_values_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"'state' of shape \[\*B, 2, 4\], got \[2, 3, 4\]"):
        flatten_feature("state", torch.zeros(2, 3, 4), (4,), history=2, **VECTOR)
    with pytest.raises(ShapeError, match=r"'top' of shape \[\*B, 3, 4, 4\], got \[4, 4\]"):
        flatten_feature("top", torch.zeros(4, 4), (3, 4, 4), resizes=True, **IMAGE)
    with pytest.raises(ConfigurationError, match="expected a tensor for 'state', got str"):
        flatten_feature("state", "here", (4,), history=0, **VECTOR)
    image = torch.zeros(2, 3, 4, 4, dtype=torch.int64)
    with pytest.raises(ConfigurationError, match=r"'top' as uint8.*got torch.int64"):
        flatten_feature("top", image, (3, 4, 4), resizes=True, **IMAGE)


@pytest.mark.parametrize(
    "value",
    [
        ["pick", "place"],
        [["pick"], ["place"]],
        NonTensorStack("pick", "place"),
        TensorDict({"task": NonTensorStack("pick", "place")}, [2]).get("task"),
    ],
)
def test_one_task_a_row(value: object) -> None:
    assert flat_texts(value, 2, "the task in words") == ["pick", "place"]


@pytest.mark.parametrize("value", ["pick", NonTensorData("pick", batch_size=[2, 2])])
def test_one_task_for_all(value: object) -> None:
    assert flat_texts(value, 4, "the task in words") == ["pick"] * 4


def test_tasks_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="task in words, got Tensor"):
        flat_texts(torch.zeros(2), 2, "the task in words")
    with pytest.raises(ShapeError, match="3 rows, got 2"):
        flat_texts(["pick", "place"], 3, "the task in words")
