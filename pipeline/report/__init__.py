"""The HTML report of a run: `write_report(run_dir)`."""

from pipeline.report.write import ReportError, write_report

__all__ = ["ReportError", "write_report"]
