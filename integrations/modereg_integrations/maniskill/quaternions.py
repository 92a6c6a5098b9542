"""Quaternions and poses of one body in numpy, bit for bit what ManiSkill computes in torch.

ManiSkill works on batches of poses; with one row that is some thirty torch calls a product. Here
the same sums and products are taken in the same order and in float32, so the results are equal to
the last bit. Quaternions are ``[4]``, real part first; poses ``[7]``, position before quaternion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Vector", "apply", "compose", "invert", "multiply", "rotation_matrix"]

Vector = NDArray[np.float32]

_INDEX = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]])
_SIGN = np.array([[1, 1, 1, 1], [-1, 1, -1, 1], [-1, 1, 1, -1], [-1, -1, 1, 1]], dtype=np.float32)
_CONJUGATE = np.array([1, -1, -1, -1], dtype=np.float32)


def _product(a: Vector, b: Vector) -> Vector:
    terms = a[:, None] * (b[_INDEX] * _SIGN)
    product: Vector = ((terms[0] + terms[1]) + terms[2]) + terms[3]
    return product


def multiply(a: Vector, b: Vector) -> Vector:
    """The rotation ``a b`` ``[4]`` with a real part that is not negative."""
    product = _product(a, b)
    return -product if product[0] < 0 else product


def apply(quaternion: Vector, point: Vector) -> Vector:
    """The point ``[3]`` turned by a quaternion ``[4]``."""
    pure = np.zeros(4, np.float32)
    pure[1:] = point
    return _product(_product(quaternion, pure), quaternion * _CONJUGATE)[1:]


def invert(pose: Vector) -> Vector:
    """The inverse ``[7]`` of a pose ``[7]``."""
    inverse = pose.copy()
    inverse[4:] = -inverse[4:]
    inverse[:3] = apply(inverse[3:], -pose[:3])
    return inverse


def compose(first: Vector, second: Vector) -> Vector:
    """The pose ``first second`` ``[7]``: ``second`` seen in the frame that ``first`` lives in."""
    pose = np.empty(7, np.float32)
    pose[:3] = first[:3] + apply(first[3:], second[:3])
    pose[3:] = multiply(first[3:], second[3:])
    return pose


def rotation_matrix(quaternion: Vector) -> Vector:
    """The rotation matrix ``[3, 3]`` of a quaternion ``[4]``."""
    r, i, j, k = quaternion
    two_s = np.float32(2) / (quaternion * quaternion).sum()
    one = np.float32(1)
    return np.array(
        [
            [one - two_s * (j * j + k * k), two_s * (i * j - k * r), two_s * (i * k + j * r)],
            [two_s * (i * j + k * r), one - two_s * (i * i + k * k), two_s * (j * k - i * r)],
            [two_s * (i * k - j * r), two_s * (j * k + i * r), one - two_s * (i * i + j * j)],
        ],
        dtype=np.float32,
    )
