"""From a policy that steers some codes to one that may learn all."""

from __future__ import annotations

import copy

import torch
from tensordict import TensorDictBase

from modereg.steering import SteeringPolicy

__all__ = ["release"]


def release(
    steering: SteeringPolicy, rows: TensorDictBase, *, steps: int = 400, batch_size: int = 512
) -> float:
    """Let every code be steered, from where each is: those that play the base by a mean of zero.

    A code that is held at N(0, I) has no gradient. So the network learns, by regression at visited
    states, the means that it has with the codes held, and then none is held any more. Standard
    deviations stay.

    Args:
        steering: changed in place.
        rows: decisions ``[n]`` with what it reads besides the code.
        steps: Adam steps.
        batch_size: states of a step, each with a code of its own.

    Returns:
        The root mean square difference of the means at the last step, in standard deviations of
        the noise.
    """
    head = steering.head
    num_codes = len(head.steered)
    inputs = [rows.get(key) for key in steering.observation_keys]
    device = head.steered.device
    optimizer = torch.optim.Adam(head.network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-4)
    error = torch.zeros((), device=device)
    held = copy.deepcopy(head)
    head.steer_all()
    for _ in range(steps):
        index = torch.randint(len(rows), (batch_size,), device=device)
        codes = torch.randint(num_codes, (batch_size,), device=device)
        one_hot = torch.nn.functional.one_hot(codes, num_codes).float()
        read = [value[index] for value in inputs]
        with torch.no_grad():
            target = held(*read, one_hot)[0]
        error = (head(*read, one_hot)[0] - target).square().mean()
        optimizer.zero_grad(set_to_none=True)
        error.backward()
        optimizer.step()
        schedule.step()
    return float(error.detach().sqrt())
