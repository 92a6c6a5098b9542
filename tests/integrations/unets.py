"""A small UNet of diffusers, for the tests of its adapter."""

from __future__ import annotations

import torch
from diffusers import UNet1DModel

__all__ = ["unet"]


def unet(inputs: int, outputs: int) -> UNet1DModel:
    """Return a UNet in eval mode, the same one each time."""
    torch.manual_seed(0)
    return UNet1DModel(
        in_channels=inputs,
        out_channels=outputs,
        down_block_types=("DownResnetBlock1D", "DownResnetBlock1D"),
        up_block_types=("UpResnetBlock1D",),
        mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock",
        block_out_channels=(16, 32),
        time_embedding_type="positional",
        use_timestep_embedding=True,
        act_fn="mish",
    ).eval()
