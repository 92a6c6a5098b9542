"""Balances: how much the intrinsic reward weighs beside the task's reward, batch by batch.

:mod:`~modereg.balances.base` has what they share, the unit of the task's reward,
:mod:`~modereg.balances.rules` the rules, :mod:`~modereg.balances.config` their options, without
torch.
"""
