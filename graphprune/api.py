"""All of it in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from .compact import CompactModel
from .criteria import Criterion
from .pipeline import rewrite, trace
from .scoring import score
from .selection import kinds_of, select


def prune(
    model: nn.Module | ExportedProgram,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    ratio: float,
    criterion: str | Criterion = "magnitude",
    data: Iterable[Any] | None = None,
    in_place: bool = False,
    by_example: bool = False,
    **selection: Any,
) -> CompactModel:
    """Trace, score, select and rewrite: a verified compact model without ``ratio`` of the parameters.

    ``selection`` are the options of :func:`graphprune.select`. With ``in_place`` it is the model itself that is cut, to
    what its module form can express. With ``by_example`` branches on the values of tensors are captured as they go for
    these inputs (:func:`graphprune.trace`).

    Raises:
        GraphPruneError: whatever the four stages raise.
    """
    traced = trace(model, args, kwargs, by_example=by_example)
    selection = {"ratio": ratio, **({"form": "module"} if in_place else {}), **selection}
    scores = score(traced, criterion, data=data, kinds=kinds_of(traced, **selection))
    return rewrite(traced, select(traced, scores, **selection), in_place=in_place)
