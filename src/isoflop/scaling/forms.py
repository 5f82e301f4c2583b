"""Functional forms of scaling laws, as formulas: E plus products of power laws, M4 and broken powers. No fitting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Symbol of each axis in the literature, of its coefficient and of its exponent.
_LETTERS = {
    "parameters": ("N", "A", "alpha"),
    "unique_samples": ("D", "B", "beta"),
    "seen_samples": ("S", "G", "gamma"),
    "flops": ("C", "K", "kappa"),
}
AXES = tuple(_LETTERS)
AXIS_NAMES = {
    "parameters": "parameters",
    "unique_samples": "unique samples",
    "seen_samples": "samples seen",
    "flops": "FLOPs",
}
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "kappa": "κ"}
TINY = 1e-300


@dataclass(frozen=True)
class Form:
    """Irreducible loss plus a sum of products of power laws: L = E + Σ_t A_t Π_{k in t} x_k^-α_k.

    ``Form((("parameters",), ("unique_samples",)))`` is the additive L(N, D) = E + A/N^α + B/D^β (Hoffmann et al.
    2022, eq. 2); ``Form((("parameters", "unique_samples"),))`` is the multiplicative E + A/(N^α D^β). The parameters
    of a law with T terms and K axes are an array [P], P = 1 + T + K: E, the coefficients, the exponents. Without
    ``irreducible``, E is fixed at 0. With ``tied``, all exponents are equal: then the loss is a power of compute at any
    fixed ratio of samples to parameters, the law of over-training of Gadre et al. 2024 (eq. 4). Exponents in ``fixed``,
    by axis, are not fitted.
    """

    terms: tuple[tuple[str, ...], ...]
    irreducible: bool = True
    tied: bool = False
    fixed: tuple[tuple[str, float], ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes in the order of the terms."""
        return tuple(axis for term in self.terms for axis in term)

    @property
    def term_of_axis(self) -> list[int]:
        """Index [K] of the term that each axis is in."""
        return [index for index, term in enumerate(self.terms) for _ in term]

    @property
    def size(self) -> int:
        """Number of parameters P."""
        return 1 + len(self.terms) + len(self.axes)

    @property
    def free(self) -> int:
        """Number of parameters that are fitted."""
        return self.size - (not self.irreducible) - (len(self.axes) - 1 if self.tied else 0) - len(self.fixed)

    @property
    def names(self) -> list[str]:
        """Names [P] of the parameters, such as E, A, B, alpha, beta."""
        coefficients = [_LETTERS[term[0]][1] for term in self.terms]
        return ["E", *coefficients, *(_LETTERS[axis][2] for axis in self.axes)]

    @property
    def label(self) -> str:
        """The formula, such as ``L(N, D) = E + A/N^α + B/D^β``."""
        terms = []
        for term in self.terms:
            powers = " ".join(f"{_LETTERS[axis][0]}^{self._exponent(axis)}" for axis in term)
            terms.append(f"{_LETTERS[term[0]][1]}/{powers}" if len(term) == 1 else f"{_LETTERS[term[0]][1]}/({powers})")
        return f"{_function_of(self.axes)} = {' + '.join(['E'] * self.irreducible + terms)}"

    def _exponent(self, axis: str) -> str:
        if axis in (known := dict(self.fixed)):
            return f"{known[axis]:g}"
        return GREEK[_LETTERS[self.axes[0] if self.tied else axis][2]]

    def predict(self, values: Floats, levels: Floats) -> Floats:
        """Predict the losses [R, M] of R laws at M points.

        Args:
            values: [R, P] parameters of R laws, in the order of ``names``.
            levels: [K, M] positive levels of the axes, in the order of ``axes``.
        """
        first = 1 + len(self.terms)
        loss_RM = np.repeat(values[:, :1], levels.shape[1], axis=1)
        logs_KM = np.log(levels)
        of = np.array(self.term_of_axis)
        for term in range(len(self.terms)):
            members = np.flatnonzero(of == term)
            exponents_RK = values[:, first + members]
            loss_RM += values[:, 1 + term, None] * np.exp(-exponents_RK @ logs_KM[members])
        return loss_RM


@dataclass(frozen=True)
class M4:
    """M4 of Alabdulmohsin et al. (2022) for one axis: (L - E) / (L0 - L)^a = A x^-α.

    L0 is the loss in the limit of no data or size, such as that of chance. With a = 0, M4 is a power law. The
    parameters are [E, L0, A, a, α].
    """

    axis: str

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.axis,)

    @property
    def size(self) -> int:
        return 5

    @property
    def free(self) -> int:
        return 5

    @property
    def names(self) -> list[str]:
        return ["E", "L0", _LETTERS[self.axis][1], "bend", _LETTERS[self.axis][2]]

    @property
    def label(self) -> str:
        letter, coefficient, exponent = _LETTERS[self.axis]
        return f"{_function_of(self.axes)}: (L - E)/(L0 - L)^a = {coefficient}/{letter}^{GREEK[exponent]} (M4)"

    def predict(self, values: Floats, levels: Floats) -> Floats:
        """Predict the losses [R, M] of R laws with parameters ``values`` [R, 5] at ``levels`` [1, M].

        With L = E + (L0 - E) s(u), s the logistic function, the equation is that of ``logit_of_m4``.
        """
        irreducible, chance, coefficient, bend, exponent = (column[:, None] for column in values.T)
        span = np.maximum(chance - irreducible, TINY)
        wanted = np.log(np.maximum(coefficient, TINY)) - exponent * np.log(levels) + (bend - 1) * np.log(span)
        return np.asarray(irreducible + span * np.exp(-np.logaddexp(0, -logit_of_m4(wanted, bend))))


def logit_of_m4(wanted: Floats, bend: Floats) -> Floats:
    """Solve log s(u) - a log s(-u) = ``wanted`` for u, with s the logistic function and a = ``bend`` ≥ 0.

    The left side is u + (a - 1) log(1 + e^u), which is monotonic. Newton's method starts from its two asymptotes.
    """
    u = np.where(wanted < 0, wanted, np.minimum(wanted / np.maximum(bend, 1e-2), 300.0))
    for _ in range(60):
        small = np.exp(-np.abs(u))
        soft = np.maximum(u, 0) + np.log1p(small)
        slope = 1 + (bend - 1) * (np.where(u > 0, 1.0, small) / (1 + small))
        step = (u + (bend - 1) * soft - wanted) / np.maximum(slope, 1e-12)
        moved = np.clip(u - np.clip(step, -20, 20), -300, 300)
        done = float(np.abs(moved - u).max()) < 1e-12
        u = moved
        if done:
            break
    return np.asarray(u)


@dataclass(frozen=True)
class Broken:
    """Broken power law with one break (Caballero et al. 2023, eq. 1): L = E + B x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1).

    The exponent changes from c0 to c0 + c1 around the level d1, within a factor of about e^f1. The parameters are
    [E, B, c0, c1, d1, f1]; c1 may be negative, c0 and c0 + c1 are at least 0.
    """

    axis: str

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.axis,)

    @property
    def size(self) -> int:
        return 6

    @property
    def free(self) -> int:
        return 6

    @property
    def names(self) -> list[str]:
        return ["E", _LETTERS[self.axis][1], "c0", "c1", "d1", "f1"]

    @property
    def label(self) -> str:
        letter, coefficient, _ = _LETTERS[self.axis]
        power = f"{coefficient}/{letter}^c0 · (1 + ({letter}/d1)^(1/f1))^(-c1 f1)"
        return f"{_function_of(self.axes)} = E + {power} (broken power law)"

    def predict(self, values: Floats, levels: Floats) -> Floats:
        """Predict the losses [R, M] of R laws with parameters ``values`` [R, 6] at ``levels`` [1, M]."""
        irreducible, coefficient, early, change, at, width = (column[:, None] for column in values.T)
        logs = np.log(levels)
        bend = change * width * np.logaddexp(0, (logs - np.log(at)) / width)
        return np.asarray(irreducible + coefficient * np.exp(-early * logs - bend))


AnyForm = Form | M4 | Broken


def additive(*axes: str) -> Form:
    """The form with E and one power law per axis."""
    return Form(tuple((axis,) for axis in axes))


L_N = additive("parameters")
L_ND = additive("parameters", "unique_samples")


def candidates(axes: Sequence[str]) -> list[AnyForm]:
    """All forms over these axes: partitions of the axes into terms; for one axis also E = 0, M4 and the broken law."""
    forms: list[AnyForm] = [Form(terms) for terms in _partitions(tuple(axes))]
    if len(axes) > 1:
        return forms
    return [*forms, Form(((axes[0],),), irreducible=False), M4(axes[0]), Broken(axes[0])]


def exponent_axis(name: str) -> str | None:
    """The axis whose exponent has this name, such as beta; None if there is none."""
    return next((axis for axis, (_, _, exponent) in _LETTERS.items() if exponent == name), None)


def exponent_names(axes: Sequence[str]) -> list[str]:
    """The names of the exponents of these axes, such as alpha and beta."""
    return [_LETTERS[axis][2] for axis in axes]


def point(form: AnyForm, levels: Mapping[str, Floats | float]) -> Floats:
    """Stack levels by axis name into the levels [K, M] of the form's axes, broadcast to one length."""
    return np.array(np.broadcast_arrays(*(np.atleast_1d(levels[axis]) for axis in form.axes)), np.float64)


def form_to_json(form: AnyForm) -> dict[str, Any]:
    """Encode a form for JSON; ``form_from_json`` is the inverse."""
    if isinstance(form, Form):
        terms = [list(term) for term in form.terms]
        return {"terms": terms, "irreducible": form.irreducible, "tied": form.tied, "fixed": dict(form.fixed)}
    return {("m4" if isinstance(form, M4) else "broken"): form.axis}


def form_from_json(content: dict[str, Any]) -> AnyForm:
    """Decode the form that ``form_to_json`` encoded.

    Raises:
        ValueError: an axis is unknown.
    """
    form: AnyForm
    if "terms" in content:
        terms = tuple(tuple(term) for term in content["terms"])
        fixed = tuple((axis, float(value)) for axis, value in content.get("fixed", {}).items())
        form = Form(terms, bool(content["irreducible"]), bool(content["tied"]), fixed)
    else:
        form = M4(content["m4"]) if "m4" in content else Broken(content["broken"])
    if not form.axes or not set(form.axes) <= set(AXES):
        raise ValueError(f"axes: got {form.axes}, expected some of {AXES}")
    return form


def _function_of(axes: Sequence[str]) -> str:
    return f"L({', '.join(_LETTERS[axis][0] for axis in axes)})"


def _partitions(axes: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """All partitions of the axes into terms, the additive one first."""
    if not axes:
        yield ()
        return
    first, rest = axes[0], axes[1:]
    for terms in _partitions(rest):
        yield ((first,), *terms)
    for terms in _partitions(rest):
        for index, term in enumerate(terms):
            yield ((first, *term), *terms[:index], *terms[index + 1 :])
