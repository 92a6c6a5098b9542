"""Learners: what improves a steering policy by reinforcement learning, one file each.

:mod:`~modereg.learners.base` says what a learner is, :mod:`~modereg.learners.config` has their
options, without torch, and how others register theirs.
"""
