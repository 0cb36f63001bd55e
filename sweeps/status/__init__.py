"""What files and queue say about a sweep: states, causes, what to do, the page, the logs of one run."""

from sweeps.status.failures import error_line, note_failure
from sweeps.status.report import Reader, Report
from sweeps.status.states import run_status

__all__ = ["Reader", "Report", "error_line", "note_failure", "run_status"]
