"""The report as lines of text for a terminal or a log."""

from __future__ import annotations

from rich.console import Console

from sweeps.plan import big, duration
from sweeps.schedule import SAME_AGAIN
from sweeps.status.fixes import quoted
from sweeps.status.report import Problem, Report
from sweeps.status.states import RunState

MOST_RUNNING = 20  # lines of running runs
MOST_NAMED = 5  # runs named of one problem
NAMES = {"nan": "diverged", "stale": "stale", "unreadable": "unreadable", "alarm": "ALARM"}


def headline(report: Report) -> str:
    """Counts by state, failed ones by cause, and the share of the planned FLOPs that is done."""
    by_cause = ", ".join(f"{number} {cause}" for cause, number in report.causes.items())
    parts = [f"{n} {name}{f' ({by_cause})' if name == 'failed' else ''}" for name, n in report.counts.items()]
    share = report.flops_useful / report.flops_planned if report.flops_planned else 0.0
    return f"{report.sweep}: {', '.join(parts)} of {len(report.states)} runs, {share:.0%} of the FLOPs"


def lines(report: Report) -> list[str]:
    """Everything, most urgent first."""
    found = [line for problem in report.problems if problem.kind == "alarm" for line in _problem(problem)]
    found += [headline(report), *_arms(report), *(f"note: {warning}" for warning in report.warnings)]
    running = [state for state in report.states if state.state == "running"]
    found += [f"  {_running(state)}" for state in running[:MOST_RUNNING]]
    if len(running) > MOST_RUNNING:
        found.append(f"  ... and {len(running) - MOST_RUNNING} more running")
    found += [line for problem in report.problems if problem.kind != "alarm" for line in _problem(problem)]
    return [*found, *_attempts(report), _flops(report), closing(report)]


def _arms(report: Report) -> list[str]:
    if not report.arms:
        return []
    return ["arms: " + ", ".join(f"{name} {done}/{total} done" for name, (done, total) in report.arms.items())]


def _running(state: RunState) -> str:
    run = state.run
    speed = f"{big(state.tokens_per_second)} tokens/s" if state.tokens_per_second else "no speed yet"
    left = f"about {duration(state.seconds_left)} left" if state.seconds_left is not None else "time left unknown"
    name = f"{run.arm}: {run.run_id}" if run.arm else run.run_id
    return f"running: {name}  step {state.step}/{run.total_steps}  {speed}  {left}  ({state.where})"


def _problem(problem: Problem) -> list[str]:
    name = NAMES.get(problem.kind, f"failed ({problem.kind})")
    found = [f"{name}: {problem.runs[0]}: {problem.error or 'see its log'}"]
    others = problem.runs[1:]
    if others:
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        found.append(f"  also {', '.join(others[:MOST_NAMED])}{more}")
    if problem.log:
        found.append(f"  log: {quoted(problem.log)}")
    return [*found, f"  what to do: {problem.fix}"]


def _attempts(report: Report) -> list[str]:
    if not report.most_attempts:
        return []
    most = ", ".join(f"{run} {count}" for run, count in report.most_attempts)
    return [f"attempts: {report.attempts} in total; most: {most}"]


def _flops(report: Report) -> str:
    lost = report.flops_spent - report.flops_useful
    again = f", {lost:.2e} of them on steps that were lost and made again" if lost > 0 else ""
    return f"FLOPs: {report.flops_spent:.2e} spent{again}; {report.flops_planned:.2e} planned"


def closing(report: Report) -> str:
    """What is left to do, and the command for it."""
    if report.all_done:
        return f"all done; next: `{report.next_command}`"
    work = f"about {duration(report.seconds_left)} of work left for one worker"
    if report.counts.get("running"):
        return f"{work}; running now at {big(report.tokens_per_second)} tokens/s"
    if report.counts.get("queued"):
        return f"{work}; waiting in SLURM's queue"
    if report.alarms and len(report.states) == report.counts.get("done"):
        return "all done, but see the alarm above before you use the table"
    if {*report.counts} <= {"done", "diverged", "blocked"}:
        return "nothing left to run: what is not done diverged, or waits for a trunk that did"
    if report.slurm and all(s.state in ("done", "diverged", "blocked") or s.cause in SAME_AGAIN for s in report.states):
        return f"{work}; it would only fail again as it is: see what to do above"
    return f"{work}; go on with `{report.next_command}`"


def show(report: Report, console: Console) -> None:
    """Print the report; nothing in it is markup, lines are not folded."""
    for line in lines(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
