"""Special functions that the standard library lacks: sums in logarithms, incomplete beta and gamma. Pure.

Everything works in natural logarithms, because likelihood ratios of long rollouts leave the range of a float.
Source of the continued fractions: NIST Digital Library of Mathematical Functions, 8.17.22 (beta) and 8.9.2 (gamma);
of their evaluation: Lentz (1976).
"""

import math
from collections.abc import Iterable
from typing import Final

_TINY: Final = 1e-300
_CLOSE: Final = 1e-15
# Lentz needs about sqrt(largest parameter) terms, so this serves parameters up to 1e9; beyond, the last value is used.
_TERMS: Final = 100_000


def log_sum(terms: Iterable[float]) -> float:
    """ln(sum(exp(term))); -inf for no terms."""
    values = tuple(terms)
    top = max(values, default=-math.inf)
    if math.isinf(top):
        return top
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def log_add(a: float, b: float) -> float:
    """ln(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if math.isinf(b) else a + math.log1p(math.exp(b - a))


def log_beta(a: float, b: float) -> float:
    """ln of the beta function, a and b positive."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def log_beta_below(a: float, b: float, x: float) -> float:
    """ln of the incomplete beta integral of t^(a-1) (1-t)^(b-1) over 0..x; not regularised. a, b > 0, 0 <= x <= 1."""
    if x <= 0.0:
        return -math.inf
    if x >= 1.0:
        return log_beta(a, b)
    front = a * math.log(x) + b * math.log1p(-x)
    if x < (a + 1.0) / (a + b + 2.0):
        return front - math.log(a) + math.log(_beta_fraction(a, b, x))
    whole = log_beta(a, b)
    other = front - math.log(b) + math.log(_beta_fraction(b, a, 1.0 - x))
    return whole + math.log1p(-min(math.exp(other - whole), 1.0 - 1e-16))


def _lentz_step(c: float, d: float, numerator: float) -> tuple[float, float]:
    d = 1.0 + numerator * d
    c = 1.0 + numerator / c
    return (c if abs(c) > _TINY else _TINY), 1.0 / (d if abs(d) > _TINY else _TINY)


def _beta_fraction(a: float, b: float, x: float) -> float:
    _, d = _lentz_step(1.0, 1.0, -(a + b) * x / (a + 1.0))
    c, value = 1.0, d
    for m in range(1, _TERMS):
        c, d = _lentz_step(c, d, m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)))
        value *= c * d
        c, d = _lentz_step(c, d, -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)))
        value *= c * d
        if abs(c * d - 1.0) < _CLOSE:
            break
    return value


def chi_square_above(statistic: float, degrees: int) -> float:
    """P(chi-square with so many degrees of freedom > statistic)."""
    a, x = degrees / 2.0, statistic / 2.0
    if x <= 0.0:
        return 1.0
    front = a * math.log(x) - x - math.lgamma(a)
    if x < a + 1.0:
        return max(0.0, 1.0 - math.exp(front) * _gamma_series(a, x))
    return math.exp(front) * _gamma_fraction(a, x)


def _gamma_series(a: float, x: float) -> float:
    term = total = 1.0 / a
    for n in range(1, _TERMS):
        term *= x / (a + n)
        total += term
        if term < total * _CLOSE:
            break
    return total


def _gamma_fraction(a: float, x: float) -> float:
    b = x + 1.0 - a
    c, d = 1.0 / _TINY, 1.0 / b
    value = d
    for n in range(1, _TERMS):
        numerator = -n * (n - a)
        b += 2.0
        d = numerator * d + b
        d = 1.0 / (d if abs(d) > _TINY else _TINY)
        c = b + numerator / c
        c = c if abs(c) > _TINY else _TINY
        value *= c * d
        if abs(c * d - 1.0) < _CLOSE:
            break
    return value


def log_normal_below(z: float) -> float:
    """ln P(standard normal < z); for z < -30 by the first terms of its asymptotic series."""
    if z > -30.0:
        return math.log(0.5 * math.erfc(-z / math.sqrt(2.0)))
    return -0.5 * z * z - math.log(-z) - 0.5 * math.log(2.0 * math.pi) + math.log1p(-1.0 / (z * z))
