"""Estimates of mutual information and entropy from samples, for evaluation: nothing here rewards.

The estimators that reward each state are in :mod:`modereg.estimators`.
"""
