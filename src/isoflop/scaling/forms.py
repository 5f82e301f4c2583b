"""Forms of scaling laws: a floor and power laws of sizes, added or multiplied, and M4, which also bends at chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# What the literature calls an axis, its coefficient and its exponent (the last one's sign, and its name for people).
_LETTERS = {
    "parameters": ("N", "A", "alpha"),
    "unique_samples": ("D", "B", "beta"),
    "seen_samples": ("S", "G", "gamma"),
    "flops": ("C", "K", "kappa"),
}
AXES = tuple(_LETTERS)
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "kappa": "κ"}
_TINY = 1e-300


@dataclass(frozen=True)
class Form:
    """A floor and a sum of products of power laws: L = E + Σ_t A_t Π_{k in t} x_k^-α_k.

    ``Form((("parameters",), ("unique_samples",)))`` is the additive L(N, D) = E + A/N^α + B/D^β (Hoffmann et al.
    2022, eq. 2), ``Form((("parameters", "unique_samples"),))`` the multiplicative E + A/(N^α D^β). The values of a
    law's parameters are an array [1 + T + K] for T terms and K axes: E, the coefficients, the exponents.
    """

    terms: tuple[tuple[str, ...], ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes in the order of the terms."""
        return tuple(axis for term in self.terms for axis in term)

    @property
    def term_of_axis(self) -> list[int]:
        """The number of each axis's term."""
        return [number for number, term in enumerate(self.terms) for _ in term]

    @property
    def size(self) -> int:
        """How many parameters the law has."""
        return 1 + len(self.terms) + len(self.axes)

    @property
    def names(self) -> list[str]:
        """Names of the parameters in the order of their values: E, A, B, alpha, beta."""
        coefficients = [_LETTERS[term[0]][1] for term in self.terms]
        return ["E", *coefficients, *(_LETTERS[axis][2] for axis in self.axes)]

    @property
    def label(self) -> str:
        """As people write it: ``L(N, D) = E + A/N^α + B/D^β``."""
        terms = []
        for term in self.terms:
            powers = " ".join(f"{_LETTERS[axis][0]}^{GREEK[_LETTERS[axis][2]]}" for axis in term)
            terms.append(f"{_LETTERS[term[0]][1]}/{powers}" if len(term) == 1 else f"{_LETTERS[term[0]][1]}/({powers})")
        return f"{_called(self.axes)} = E + {' + '.join(terms)}"

    def predict(self, values: Floats, levels: Floats) -> Floats:
        """Loss [R, M] of R laws at M points.

        Args:
            values: [R, P] parameters of R laws, as ``names`` orders them.
            levels: [K, M] positive levels of the axes, as ``axes`` orders them.
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
    """The law of Alabdulmohsin et al. (2022, M4) of one axis: (L - E) / (L0 - L)^a = A x^-α.

    L0 is the loss at no size or data at all, such as that of chance; with a = 0 it is the power law. The values are
    [E, L0, A, a, α].
    """

    axis: str

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.axis,)

    @property
    def size(self) -> int:
        return 5

    @property
    def names(self) -> list[str]:
        return ["E", "L0", _LETTERS[self.axis][1], "bend", _LETTERS[self.axis][2]]

    @property
    def label(self) -> str:
        letter, coefficient, exponent = _LETTERS[self.axis]
        return f"{_called(self.axes)}: (L - E)/(L0 - L)^a = {coefficient}/{letter}^{GREEK[exponent]} (M4)"

    def predict(self, values: Floats, levels: Floats) -> Floats:
        """Loss [R, M] of R laws [R, 5] at M points [1, M].

        With L = E + (L0 - E) s(u), s the logistic function, the law is one increasing function of u, whose root
        Newton's method finds from anywhere.
        """
        floor, top, coefficient, bend, exponent = (column[:, None] for column in values.T)
        span = np.maximum(top - floor, _TINY)
        wanted = np.log(np.maximum(coefficient, _TINY)) - exponent * np.log(levels) + (bend - 1) * np.log(span)
        u = np.zeros_like(wanted)
        for _ in range(60):
            below, above = -np.logaddexp(0, -u), -np.logaddexp(0, u)  # log s(u), log s(-u)
            slope = np.exp(above) + bend * np.exp(below)
            step = (below - bend * above - wanted) / np.maximum(slope, 1e-12)
            u = np.clip(u - np.clip(step, -20, 20), -300, 300)
            if np.abs(step).max() < 1e-13:
                break
        return np.asarray(floor + span * np.exp(-np.logaddexp(0, -u)))


AnyForm = Form | M4


def additive(*axes: str) -> Form:
    """E and one power law an axis."""
    return Form(tuple((axis,) for axis in axes))


L_N = additive("parameters")
L_ND = additive("parameters", "unique_samples")


def candidates(axes: Sequence[str]) -> list[AnyForm]:
    """Every form that a study of these axes can have: the axes added, multiplied, or some of each; M4 for one alone."""
    forms: list[AnyForm] = [Form(terms) for terms in _partitions(tuple(axes))]
    return forms + ([M4(axes[0])] if len(axes) == 1 else [])


def point(form: AnyForm, levels: Mapping[str, Floats | float]) -> Floats:
    """Levels [K, M] of the form's axes out of levels by name."""
    return np.array(np.broadcast_arrays(*(np.atleast_1d(levels[axis]) for axis in form.axes)), np.float64)


def form_to_json(form: AnyForm) -> list[list[str]] | str:
    """What ``form_from_json`` reads."""
    return form.axis if isinstance(form, M4) else [list(term) for term in form.terms]


def form_from_json(content: list[list[str]] | str) -> AnyForm:
    """The form that ``form_to_json`` wrote.

    Raises:
        ValueError: it names an axis that there is not.
    """
    form = M4(content) if isinstance(content, str) else Form(tuple(tuple(term) for term in content))
    if not form.axes or not set(form.axes) <= set(AXES):
        raise ValueError(f"axes {form.axes}")
    return form


def _called(axes: Sequence[str]) -> str:
    return f"L({', '.join(_LETTERS[axis][0] for axis in axes)})"


def _partitions(axes: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """All ways to put the axes into terms, the additive one first."""
    if not axes:
        yield ()
        return
    first, rest = axes[0], axes[1:]
    for terms in _partitions(rest):
        yield ((first,), *terms)
    for terms in _partitions(rest):
        for number, term in enumerate(terms):
            yield ((first, *term), *terms[:number], *terms[number + 1 :])
