"""From the arrays of MuJoCo to the tensors of an environment."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["to_tensor"]


def to_tensor(values: np.ndarray) -> Tensor:
    """Copy values ``[N]`` or ``[N, D]`` into a tensor with at least a column, floats as float32."""
    tensor = torch.tensor(values if values.ndim > 1 else values[:, None])
    return tensor.float() if tensor.is_floating_point() else tensor
