"""``modereg doctor``: whether this machine has what modereg needs, without importing torch.

Other packages add their own checks by entry points of the group ``modereg.doctor``: a function
without arguments that returns :class:`~modereg.doctor.findings.Finding` objects.
"""

from modereg.doctor.checks import GROUP, examine
from modereg.doctor.command import doctor
from modereg.doctor.findings import Finding

__all__ = ["GROUP", "Finding", "doctor", "examine"]
