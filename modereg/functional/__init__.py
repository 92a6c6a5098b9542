r"""The mathematics of modereg as pure functions of tensors: one equation, one function.

Units of information are nats. ``[*B]`` is any batch, K the number of codes, N a number of points.
"""

from modereg.functional.continuous import (
    gaussian_log_ratio,
    soft_range,
    sphere_log_area,
    von_mises_fisher_natural_log_ratio,
    von_mises_fisher_peak,
)
from modereg.functional.contrastive import contrastive_limit, contrastive_ratio, pair_scores
from modereg.functional.control import (
    clipped_surrogate,
    group_matching,
    kl_standard_normal,
    score_function_loss,
    shaping,
)
from modereg.functional.critics import (
    donsker_varadhan,
    info_nce,
    jensen_shannon,
    log_mean_exp,
    mine,
    nwj,
    smile,
    split_scores,
)
from modereg.functional.denoising import (
    denoising_clip,
    flow_step,
    gaussian_step_kl,
    gaussian_step_log_prob,
)
from modereg.functional.distributional import (
    categorical_mean,
    lower_categorical,
    project_categorical,
)
from modereg.functional.neighbours import (
    kozachenko_leonenko_terms,
    ksg_rectangle_terms,
    ksg_terms,
    particle_reward,
    ross_terms,
)
from modereg.functional.novelty import (
    distillation_error,
    novel_d,
    pooled_moments,
)
from modereg.functional.partitions import (
    adjusted_information,
    adjusted_mutual_information,
    adjusted_rand_index,
    contingency,
    entropy,
    expected_information,
    mutual_information,
    normalized_entropy,
    normalized_mutual_information,
)
from modereg.functional.paths import along_path
from modereg.functional.points import (
    nearest_centroid,
    silhouette,
    silhouette_of_distances,
    squared_distances,
)
from modereg.functional.variational import (
    aliased_codes,
    categorical_log_ratio,
    inference_loss,
    inference_nll,
    merged_log_probs,
)
from modereg.functional.wasserstein import centred_codes, constraint_slack, directed_step, dual_loss

__all__ = [
    "adjusted_information",
    "adjusted_mutual_information",
    "adjusted_rand_index",
    "aliased_codes",
    "along_path",
    "categorical_log_ratio",
    "categorical_mean",
    "centred_codes",
    "clipped_surrogate",
    "constraint_slack",
    "contingency",
    "contrastive_limit",
    "contrastive_ratio",
    "denoising_clip",
    "directed_step",
    "distillation_error",
    "donsker_varadhan",
    "dual_loss",
    "entropy",
    "expected_information",
    "flow_step",
    "gaussian_log_ratio",
    "gaussian_step_kl",
    "gaussian_step_log_prob",
    "group_matching",
    "inference_loss",
    "inference_nll",
    "info_nce",
    "jensen_shannon",
    "kl_standard_normal",
    "kozachenko_leonenko_terms",
    "ksg_rectangle_terms",
    "ksg_terms",
    "log_mean_exp",
    "lower_categorical",
    "merged_log_probs",
    "mine",
    "mutual_information",
    "nearest_centroid",
    "normalized_entropy",
    "normalized_mutual_information",
    "novel_d",
    "nwj",
    "pair_scores",
    "particle_reward",
    "pooled_moments",
    "project_categorical",
    "ross_terms",
    "score_function_loss",
    "shaping",
    "silhouette",
    "silhouette_of_distances",
    "smile",
    "soft_range",
    "sphere_log_area",
    "split_scores",
    "squared_distances",
    "von_mises_fisher_natural_log_ratio",
    "von_mises_fisher_peak",
]
