"""What a user may fix about a fit: the form, E, tied exponents, and outliers to trim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.scaling.fitting.objectives import OBJECTIVES
from isoflop.scaling.fitting.one_form import fit
from isoflop.scaling.forms import AXIS_NAMES, M4, AnyForm, Broken, Form, additive, candidates
from isoflop.scaling.tables.runs import Study

FORMS = ("auto", "additive", "multiplicative", "m4", "broken")
_NORMAL = 1.4826  # ratio of the standard deviation to the median absolute deviation of a normal distribution


def forms_of(study: Study, form: str = "auto", fix: Sequence[str] = (), tie: bool = False) -> list[AnyForm] | None:
    """The forms to choose from; None for all over the study's axes.

    Args:
        form: one of ``FORMS``.
        fix: parameters with a fixed value; E=0 is the one that is supported.
        tie: whether all exponents are equal (Gadre et al. 2024).

    Raises:
        UserError: a form or a fixed parameter does not exist for the axes of the study.
    """
    if unknown := [one for one in fix if one.replace(" ", "") not in ("E=0", "E=0.0")]:
        raise UserError(f"--fix: got {unknown[0]}, expected E=0")
    if form not in FORMS:
        raise UserError(f"--form: got {form}, expected one of {', '.join(FORMS)}")
    axes = study.axes
    if form in ("m4", "broken"):
        if len(axes) > 1 or fix or tie:
            varied = ", ".join(AXIS_NAMES[axis] for axis in axes)
            raise UserError(
                f"--form: got {form}, which describes one axis with free parameters; expected additive or "
                f"multiplicative for {varied}, for --fix and for --tie"
            )
        return [M4(axes[0]) if form == "m4" else Broken(axes[0])]
    if form == "auto" and not fix and not tie:
        return None
    chosen = {"additive": [additive(*axes)], "multiplicative": [Form((axes,))]}.get(form)
    powers = chosen or [one for one in candidates(axes) if isinstance(one, Form) and one.irreducible]
    return [replace(one, irreducible=not fix, tied=tie and len(axes) > 1) for one in powers]


def trimmed(study: Study, deviations: float, objective: str, forms: Sequence[AnyForm] | None = None) -> Study:
    """The study without runs that deviate from a robust first fit by more than ``deviations`` standard deviations.

    The standard deviation is that of the median absolute residual of log loss, which outliers hardly change. The runs
    are counted as ``outlier``, and their rows are listed in ``dropped``.
    """
    form = (forms or candidates(study.axes))[0]
    levels = study.levels(form.axes)
    values, _ = fit(form, levels, study.losses, OBJECTIVES[objective], study.weights)
    residuals_M = np.log(study.losses) - np.log(form.predict(values[None], levels)[0])
    spread = _NORMAL * float(np.median(np.abs(residuals_M)))
    keep_M = np.abs(residuals_M) <= max(deviations * spread, 1e-9)
    outliers = [run for run, keep in zip(study.runs, keep_M, strict=True) if not keep]
    excluded = Counter(study.excluded) + Counter({"outlier": len(outliers)})
    dropped = sorted([*study.dropped, *((run.row, "outlier") for run in outliers)])
    return replace(study.only(keep_M.tolist()), excluded=excluded, dropped=tuple(dropped))
