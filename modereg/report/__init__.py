"""Pictures of runs, and one self-contained page about them."""

from modereg.report.entries import ReportEntry
from modereg.report.page import write_report
from modereg.report.paths import Paths, record_paths

__all__ = ["Paths", "ReportEntry", "record_paths", "write_report"]
