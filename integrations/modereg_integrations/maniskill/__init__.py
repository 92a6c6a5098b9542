"""ManiSkill for modereg: environments, multimodal tasks with their experts, and a software driver.

The names below are imported when they are first used, so that
``python -m modereg_integrations.maniskill.vulkan`` starts without torch.
"""

from modereg.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
