"""Pictures of runs, and one self-contained page about them."""

from modereg.report.entries import ReportEntry
from modereg.report.episodes import record_paths
from modereg.report.page import write_report

__all__ = ["ReportEntry", "record_paths", "write_report"]
