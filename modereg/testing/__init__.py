"""Contract checks for policies and transforms, with tiny ones to run them on.

An adapter of a third party runs the same checks as modereg's own tests.
"""

from modereg.testing.environments import CountingEnv, counting_gym
from modereg.testing.policies import TinyPolicy, check_generative_policy
from modereg.testing.transforms import (
    CONTEXTS,
    Context,
    check_transform,
    check_transformed_env,
)

__all__ = [
    "CONTEXTS",
    "Context",
    "CountingEnv",
    "TinyPolicy",
    "check_generative_policy",
    "check_transform",
    "check_transformed_env",
    "counting_gym",
]
