"""Which fit of a study a command is about, and the rows it was fitted to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from analysis.fit import form_of
from analysis.result import FitResult
from analysis.rows.table import RunTable, Sample
from analysis.study import Study, load_study


def add_fit_options(found: argparse.ArgumentParser) -> None:
    """The fits file and what picks one fit of it."""
    found.add_argument("fits", type=Path, help="what nmm fit wrote")
    found.add_argument("--group", default=None, help="of the fit to use (default: the only one)")
    found.add_argument("--target", default=None, help="of the fit to use (default: the first)")
    found.add_argument("--law", default=None, help="of the fit to use (default: E known where there is one)")
    found.add_argument("--table", default=None, help="the fitted table, where it has moved since (default: as fitted)")


def chosen_fit(options: argparse.Namespace) -> tuple[Study, FitResult]:
    """The study and the one fit that the options name. Raises ``ValueError`` listing the choices when they name none
    or leave several groups open."""
    study = load_study(options.fits)
    group = _pick("--group", options.group, list(dict.fromkeys(f.group for f in study.fits)), only=True)
    target = _pick("--target", options.target, list(study.targets))
    forms = [f.form for f in study.fits if (f.group, f.target) == (group, target)]
    if options.law is not None:
        form = _pick("--law", form_of(options.law), forms)
    else:
        form = next((name for name in ("known", "free") if name in forms), _pick("--law", None, forms))
    fit = study.fit(group, target, form)
    assert fit is not None, "the form was picked among the fits of this group and target"
    return study, fit


def _pick(flag: str, given: str | None, choices: Sequence[str], only: bool = False) -> str:
    if given in choices:
        return str(given)
    if given is None and choices and (len(choices) == 1 or not only):
        return choices[0]
    problem = "name one" if given is None else f"{given!r} is not there"
    raise ValueError(f"{flag}: {problem}; the fits have {', '.join(choices) or 'none'}")


def table_of(study: Study, options: argparse.Namespace) -> RunTable:
    """The table a study was fitted to. Raises ``ValueError`` when it is not where it was."""
    source = options.table or study.source
    if not Path(source).exists():
        raise ValueError(f"the fitted table {source} is not there; say where it is with --table")
    return study.reload(source)


def sample_of(study: Study, fit: FitResult, options: argparse.Namespace) -> Sample:
    """The rows of one fit."""
    return table_of(study, options).sample(fit.group, fit.target)[0]
