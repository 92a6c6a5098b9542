from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from mani_skill.utils.geometry.rotation_conversions import (
    euler_angles_to_matrix,
    matrix_to_quaternion,
    quaternion_to_matrix,
)
from mani_skill.utils.structs.pose import Pose

from modereg_integrations.maniskill.fast import quaternions

poses = st.integers(0, 2**31).map(
    lambda seed: np.random.default_rng(seed).normal(size=7).astype(np.float32)
)


def unit(pose: np.ndarray) -> np.ndarray:
    pose[3:] /= np.linalg.norm(pose[3:])
    return pose


def batched(pose: np.ndarray) -> Pose:
    return Pose.create(torch.from_numpy(pose))


@given(poses.map(unit), poses.map(unit))
def test_every_bit_is_maniskills(first: np.ndarray, second: np.ndarray) -> None:
    product = (batched(first) * batched(second)).raw_pose[0].numpy()
    assert np.array_equal(quaternions.compose(first, second), product)
    assert np.array_equal(quaternions.invert(first), batched(first).inv().raw_pose[0].numpy())
    matrix = quaternion_to_matrix(torch.from_numpy(first[3:])).numpy()
    assert np.array_equal(quaternions.rotation_matrix(first[3:]), matrix)


@given(poses.map(unit), poses.map(unit))
def test_the_inverse_undoes_and_the_matrix_turns(pose: np.ndarray, other: np.ndarray) -> None:
    back = quaternions.compose(quaternions.invert(pose), quaternions.compose(pose, other))
    np.testing.assert_allclose(back[:3], other[:3], atol=1e-5)
    np.testing.assert_allclose(abs(back[3:] @ other[3:]), 1, atol=1e-5)
    turned = quaternions.rotation_matrix(pose[3:]) @ other[:3]
    np.testing.assert_allclose(quaternions.apply(pose[3:], other[:3]), turned, atol=1e-5)


@given(poses)
def test_turns_about_the_axes_to_every_bit(pose: np.ndarray) -> None:
    for angles in (pose[:3], 0.1 * pose[3:6]):
        matrix = euler_angles_to_matrix(torch.from_numpy(angles)[None], "XYZ")
        expected = matrix_to_quaternion(matrix)[0].numpy()
        assert np.array_equal(quaternions.from_euler(angles), expected)
