"""The axis algebra: pure Python, no torch."""

from .algebra import EMPTY, ONE, Atom, Axis, Product, Sum, atoms, concat, factors_of, parts, product, terms_of
from .solver import MAX_TERMS, Coupling, Freeze, Solver

__all__ = [
    "EMPTY",
    "MAX_TERMS",
    "ONE",
    "Atom",
    "Axis",
    "Coupling",
    "Freeze",
    "Product",
    "Solver",
    "Sum",
    "atoms",
    "concat",
    "factors_of",
    "parts",
    "product",
    "terms_of",
]
