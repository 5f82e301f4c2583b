"""What a user may fix about a fit: the form, E, exponents, tied exponents, and outliers to trim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.scaling.fitting.learning_curves import searched_gamma, seed_weights
from isoflop.scaling.fitting.objectives import objective_of
from isoflop.scaling.fitting.one_form import fit
from isoflop.scaling.forms import (
    AXIS_NAMES,
    M4,
    AnyForm,
    Broken,
    Form,
    additive,
    candidates,
    exponent_axis,
    exponent_names,
)
from isoflop.scaling.tables.runs import Study

FORMS = ("auto", "additive", "multiplicative", "m4", "broken")
_LEAST_VARIANCE = 2e-6  # of an error as a fraction: Hoiem et al. use 0.02 for percent
_NORMAL = 1.4826  # ratio of the standard deviation to the median absolute deviation of a normal distribution


def forms_of(study: Study, form: str = "auto", fix: Sequence[str] = (), tie: bool = False) -> list[AnyForm] | None:
    """The forms to choose from; None for all over the study's axes.

    Args:
        form: one of ``FORMS``.
        fix: parameters with a fixed value: E=0, or an exponent such as beta=0.5.
        tie: whether all exponents are equal (Gadre et al. 2024).

    Raises:
        UserError: a form or a fixed parameter does not exist for the axes of the study.
    """
    irreducible, fixed = _fixed(fix, study.axes, tie)
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
    return [replace(one, irreducible=irreducible, tied=tie and len(axes) > 1, fixed=fixed) for one in powers]


def _fixed(fix: Sequence[str], axes: Sequence[str], tie: bool) -> tuple[bool, tuple[tuple[str, float], ...]]:
    """Whether E is free, and the fixed exponents by axis."""
    exponents: dict[str, float] = {}
    irreducible = True
    for one in fix:
        name, _, text = one.replace(" ", "").partition("=")
        axis = exponent_axis(name)
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if name == "E" and value == 0:
            irreducible = False
        elif axis is not None and axis in axes and 0 < value <= 10 and not tie:
            exponents[axis] = value
        else:
            names = ", ".join(f"{name}=VALUE" for name in exponent_names(axes))
            expected = "E=0 with --tie" if tie else f"E=0 or {names} up to 10"
            raise UserError(f"--fix: got {one}, expected {expected}")
    return irreducible, tuple(exponents.items())


def with_gamma(study: Study, gamma: str) -> tuple[Study, Form]:
    """The study and the form of a learning curve of Hoiem et al. 2021: error = E + B D^gamma, by weighted squares.

    Args:
        gamma: a number from -10 to 0, or ``search`` for that of -0.99 to -0.01 with the least weighted squares.

    Returns:
        The study with the weights of ``seed_weights`` unless the table has weights, and the form with gamma fixed.

    Raises:
        UserError: the study varies something else than samples, or gamma is neither of these.
    """
    if len(study.axes) > 1 or study.axes[0] not in ("unique_samples", "seen_samples"):
        varied = ", ".join(AXIS_NAMES[axis] for axis in study.axes)
        raise UserError(f"--gamma: got runs over {varied}, expected a learning curve over --samples alone")
    samples, errors = study.column(study.axes[0]), study.losses
    if study.weights is None:
        percent = 1e4 if errors.max() > 1 else 1.0
        weights = seed_weights(samples, errors, _LEAST_VARIANCE * percent)
        study = replace(
            study, runs=tuple(replace(run, weight=float(one)) for run, one in zip(study.runs, weights, strict=True))
        )
    try:
        value = searched_gamma(samples, errors, study.weights) if gamma == "search" else float(gamma)
    except ValueError:
        value = 1.0
    if not -10 <= value < 0:
        raise UserError(f"--gamma: got {gamma}, expected search or a number from -10 to 0, such as -0.5")
    return study, replace(additive(study.axes[0]), fixed=((study.axes[0], -value),))


def trimmed(study: Study, deviations: float, objective: str, forms: Sequence[AnyForm] | None = None) -> Study:
    """The study without runs that deviate from a robust first fit by more than ``deviations`` standard deviations.

    The standard deviation is that of the median absolute residual of log loss, which outliers hardly change. The runs
    are counted as ``outlier``, and their rows are listed in ``dropped``.
    """
    form = (forms or candidates(study.axes))[0]
    levels = study.levels(form.axes)
    values, _ = fit(form, levels, study.losses, objective_of(objective), study.weights)
    residuals_M = np.log(study.losses) - np.log(form.predict(values[None], levels)[0])
    spread = _NORMAL * float(np.median(np.abs(residuals_M)))
    keep_M = np.abs(residuals_M) <= max(deviations * spread, 1e-9)
    outliers = [run for run, keep in zip(study.runs, keep_M, strict=True) if not keep]
    excluded = Counter(study.excluded) + Counter({"outlier": len(outliers)})
    dropped = sorted([*study.dropped, *((run.row, "outlier") for run in outliers)])
    return replace(study.only(keep_M.tolist()), excluded=excluded, dropped=tuple(dropped))
