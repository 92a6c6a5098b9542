from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from modereg_integrations.maniskill.lift_peg.geometry import (
    HALF_LENGTH,
    facing,
    rotation_vector,
    standing_mode,
)

components = st.floats(-1.7, 1.7)  # the norm stays below pi
vectors = st.tuples(components, components, components)


@given(vector=vectors)
def test_the_rotation_vector_is_scipys(vector: tuple[float, float, float]) -> None:
    matrix = torch.tensor(Rotation.from_rotvec(vector).as_matrix())
    torch.testing.assert_close(
        rotation_vector(matrix), torch.tensor(vector, dtype=torch.float64), atol=1e-6, rtol=1e-6
    )


def test_a_frame_of_two_axes_is_a_rotation() -> None:
    along, approach = torch.eye(3)[[0, 2]], -torch.eye(3)[[2, 1]]
    frames = facing(along, approach)
    torch.testing.assert_close(frames @ frames.mT, torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(torch.linalg.det(frames), torch.ones(2))
    assert torch.equal(frames[..., 0], along)
    assert torch.equal(frames[..., 2], approach)


@pytest.mark.parametrize(
    ("tilt", "height", "mode"),
    [
        (0.0, 0.0, 0),
        (0.07, 0.004, 0),
        (0.09, 0.0, -1),
        (0.0, 0.006, -1),
        (math.pi / 2, 0.0, -1),  # held flat, at the height of a peg that stands
        (math.pi, 0.0, 1),
        (math.pi + 0.07, -0.004, 1),
        (math.pi + 0.09, 0.0, -1),
    ],
)
@given(heading=st.floats(0, 6.3))
def test_which_end_is_up(tilt: float, height: float, mode: int, heading: float) -> None:
    flat = math.sin(tilt)
    axis = torch.tensor([flat * math.cos(heading), flat * math.sin(heading), math.cos(tilt)])
    assert int(standing_mode(torch.tensor([0.0, 0.0, HALF_LENGTH + height]), axis)) == mode
