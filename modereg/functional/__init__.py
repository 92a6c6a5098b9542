r"""The mathematics of modereg as pure functions of tensors: one equation, one function.

Units of information are nats. ``[*B]`` is any batch, K the number of codes, N a number of points.
"""

from modereg.functional.control import (
    clipped_surrogate,
    kl_standard_normal,
    shaping,
)
from modereg.functional.neighbours import particle_reward
from modereg.functional.partitions import (
    adjusted_rand_index,
    contingency,
    effective_number,
    entropy,
    mutual_information,
    normalized_entropy,
    normalized_mutual_information,
)
from modereg.functional.points import (
    nearest_centroid,
    silhouette,
    squared_distances,
)
from modereg.functional.variational import (
    aliased_codes,
    categorical_log_ratio,
    inference_loss,
    inference_nll,
    variational_bound,
)

__all__ = [
    "adjusted_rand_index",
    "aliased_codes",
    "categorical_log_ratio",
    "clipped_surrogate",
    "contingency",
    "effective_number",
    "entropy",
    "inference_loss",
    "inference_nll",
    "kl_standard_normal",
    "mutual_information",
    "nearest_centroid",
    "normalized_entropy",
    "normalized_mutual_information",
    "particle_reward",
    "shaping",
    "silhouette",
    "squared_distances",
    "variational_bound",
]
