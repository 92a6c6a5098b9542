"""Quaternions and poses of one body in numpy, bit for bit what ManiSkill computes in torch.

ManiSkill works on batches of poses; with one row that is some thirty torch calls a product. Here
the same sums and products are taken in the same order and in float32, so the results are equal to
the last bit. Quaternions are ``[4]``, real part first; poses ``[7]``, position before quaternion.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["apply", "compose", "from_euler", "invert", "multiply", "rotation_matrix"]

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


def from_euler(angles: Vector) -> Vector:
    """The quaternion ``[4]`` of turns about x, y and z, each about the axis as turned before.

    Args:
        angles: ``[3]`` in radians. Sines, roots and products of matrices are torch's, whose last
            bits are not numpy's.
    """
    batch = torch.from_numpy(angles)
    (cx, cy, cz), (sx, sy, sz) = torch.cos(batch).numpy(), torch.sin(batch).numpy()
    turns = np.array(
        [
            [[1, 0, 0], [0, cx, -sx], [0, sx, cx]],
            [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]],
            [[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]],
        ],
        dtype=np.float32,
    )
    x, y, z = torch.from_numpy(turns).split(1)
    return _from_matrix(torch.matmul(torch.matmul(x, y), z).numpy()[0])


def _from_matrix(m: Vector) -> Vector:
    """The quaternion of a rotation matrix, from the largest of its parts."""
    one = np.float32(1)
    squares = np.array(
        [
            one + m[0, 0] + m[1, 1] + m[2, 2],
            one + m[0, 0] - m[1, 1] - m[2, 2],
            one - m[0, 0] + m[1, 1] - m[2, 2],
            one - m[0, 0] - m[1, 1] + m[2, 2],
        ]
    )
    doubled = torch.sqrt(torch.from_numpy(np.maximum(squares, np.float32(0)))).numpy()
    largest = int(doubled.argmax())
    a, b, c = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    d, e, f = m[1, 0] + m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    rows = ([0, a, b, c], [a, 0, d, e], [b, d, 0, f], [c, e, f, 0])
    parts = np.array(rows[largest], dtype=np.float32)
    parts[largest] = doubled[largest] * doubled[largest]
    quaternion: Vector = parts / (np.float32(2) * max(doubled[largest], np.float32(0.1)))
    return -quaternion if quaternion[0] < 0 else quaternion
