"""See to it that what a model computes while it is captured or verified stays in no cache of its code.

A function with a cache (:func:`functools.lru_cache`) and a dict of a file (a grid for each size) would hold tensors
without values, or in the type of a verification, and give them to the model's own runs later.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import _lru_cache_wrapper, lru_cache
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils._pytree import tree_leaves

Function: TypeAlias = "_lru_cache_wrapper[Any]"


@contextlib.contextmanager
def caches_restored() -> Iterator[None]:
    """After the context no function and no dict of a file holds what was computed within it.

    Functions whose cache has grown forget all of it; dicts lose the tensors that were added.
    """
    functions, dicts = _caches(len(sys.modules))
    computed = [each.cache_info().misses for each in functions]
    sizes = [len(each) for each in dicts]
    try:
        yield
    finally:
        for function, before in zip(functions, computed, strict=True):
            if function.cache_info().misses != before:
                function.cache_clear()
        for held, size in zip(dicts, sizes, strict=True):
            for key in list(held)[size:] if len(held) > size else ():
                if any(isinstance(leaf, Tensor) for leaf in tree_leaves(held[key])):
                    del held[key]


@lru_cache(maxsize=1)  # what fewer modules held is asked for no more
def _caches(modules: int) -> tuple[list[Function], list[dict[Any, Any]]]:
    """The functions and methods with a cache, and the dicts, of all files that were read but torch's own."""
    functions: dict[int, Function] = {}
    dicts: dict[int, dict[Any, Any]] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in NOT_SEARCHED or module is None:
            continue
        for own in list(vars(module).values()):
            inner = list(vars(own).values()) if isinstance(own, type) and own.__module__ == name else []
            for each in (own, *inner):
                each = getattr(each, "__func__", each)
                if isinstance(each, _lru_cache_wrapper):
                    functions[id(each)] = each
            if type(own) is dict:
                dicts[id(own)] = own
    return list(functions.values()), list(dicts.values())


NOT_SEARCHED = {"torch", "graphprune", *sys.stdlib_module_names} - {"__main__"}
