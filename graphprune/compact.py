"""The compact model: what ``gp.rewrite`` returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import fx, nn

from .errors import RewriteError
from .origin import Origin
from .passes.verify import VerifyReport
from .plan import PruningPlan
from .program import written
from .tables import facts_table, to_html


@dataclass(frozen=True)
class CompactModel:
    """A pruned model in its two forms, with the report that shows that it equals the masked original.

    ``graph`` runs with the inputs that the model was traced with; ``module`` is the same kind of module as the
    original. ``module_error`` says why there is no module form, where there is none.
    """

    graph_form: fx.GraphModule = field(repr=False)
    plan: PruningPlan
    report: VerifyReport | None
    """None for a model without values (on the meta device), which can't be run."""

    module_form: nn.Module | None = field(repr=False)
    module_error: str | None
    dense_parameters: int
    """The parameters of the model that was pruned."""

    origin: Origin | None = field(default=None, repr=False)
    """What ``gp.save`` and ``gp.export_onnx`` need to know of the dense model; ``gp.rewrite`` always says it."""

    @cached_property
    def graph(self) -> fx.GraphModule:
        """The graph form."""
        return written(self.graph_form)

    @property
    def module(self) -> nn.Module:
        """The module form.

        Raises:
            RewriteError: there is none; the message says why.
        """
        if self.module_form is None:
            raise RewriteError(
                f"there is no module form of this model: {self.module_error}; use its graph form (.graph)"
            )
        return self.module_form

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module form, or the graph form where there is no other."""
        return (self.graph if self.module_form is None else self.module_form)(*args, **kwargs)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the form that is run, each once."""
        return (self.graph_form if self.module_form is None else self.module_form).parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same with their names."""
        return (self.graph_form if self.module_form is None else self.module_form).named_parameters()

    def _repr_html_(self) -> str:
        """For a notebook: what is left, and what verification saw."""
        facts = {
            "parameters": f"{self.parameter_count:,} of {self.dense_parameters:,} ({self.ratio:.1%} removed)",
            "forms": "graph and module" if self.module_error is None else f"graph; no module form: {self.module_error}",
            **({"verified": "no, it has no values"} if self.report is None else self.report.facts()),
        }
        run = self.graph if self.module_form is None else self.module_form
        return to_html(facts_table(facts), f"CompactModel: {type(run).__name__}")

    @property
    def parameter_count(self) -> int:
        """The number of parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def ratio(self) -> float:
        """The share of the parameters that is gone."""
        return 1 - self.parameter_count / self.dense_parameters
