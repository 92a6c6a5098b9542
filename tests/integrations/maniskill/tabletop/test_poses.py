from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from modereg_integrations.maniskill.tabletop.poses import (
    Frame,
    PosePlan,
    PoseStage,
    facing,
    rotation_vector,
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


def test_a_plan_waits_and_moves_on() -> None:
    here, away = Frame(torch.zeros(3), torch.eye(3)), Frame(torch.ones(3), torch.eye(3))
    turned = torch.tensor(Rotation.from_euler("z", 1.0).as_matrix()).float()
    plan = PosePlan(
        [
            PoseStage("tool", (0.0, 0.0, 0.0), torch.eye(3), True, 0.1, steps=2),
            PoseStage("peg", (1.0, 1.0, 1.0), turned, False, 0.1, 0.2),
            PoseStage("peg", (1.0, 1.0, 2.0), turned, False, 0.1),
        ]
    )
    frames = {"tool": here, "peg": away}
    assert [plan(frames)[-1].item() for _ in range(3)] == [1.0, 1.0, -1.0]
    assert plan.stage == 1  # the peg is there, and not yet turned
    plan(frames | {"peg": Frame(torch.ones(3), turned)})
    assert plan.stage == 2
