"""``modereg doctor``: whether this machine has what modereg needs, without importing torch.

Other packages add their own checks by entry points of the group ``modereg.doctor``: a function
without arguments that returns :class:`~modereg.doctor.checks.Finding` objects.
"""

from modereg.doctor.checks import GROUP, Finding, examine
from modereg.doctor.command import doctor

__all__ = ["GROUP", "Finding", "doctor", "examine"]
