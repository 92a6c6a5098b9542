"""Avoid with its pay times a number, as a task that the commands can name."""

from __future__ import annotations

from modereg.tasks import Task, avoid_task
from modereg.tasks.avoid import route_pay

__all__ = ["scaled_avoid"]


def scaled_avoid(*, pay_spread: float = 0.3, scale: float = 1.0) -> Task:
    """Return Avoid, whose routes pay ``scale`` times what they pay by ``pay_spread``."""
    return avoid_task(pay=scale * route_pay(pay_spread))
