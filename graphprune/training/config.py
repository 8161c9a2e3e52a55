"""The settings of a run, in one dataclass that is saved with its result and reproduces it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ..budget import Of
from ..constraints import PerKind
from ..criteria import Criterion, criterion_by_name
from ..criteria.lora import Variant
from ..errors import BudgetError, FileFormatError, ScoreError, TrainingError
from ..ladders import Normalize, Scope
from ..schedule import schedule_by_name
from ..selection import Form

Precision = Literal["fp32", "bf16"]

MakeUp = Literal["none", "bias", "weights"]
"""What makes up for removed units: nothing, biases (:func:`graphprune.compensate`, after pruning at once only), or the
weights that stay (:func:`graphprune.reconstruct`; while training at each pruning)."""


@dataclass(frozen=True)
class PruneConfig:
    """How to prune while fine-tuning. The defaults are those of LoRAPrune (arXiv 2305.18403, sections 3.3 and 4.1).

    ``ratio`` is a share of ``of``, by default of the parameters without adapters: these are merged into the others in
    what is delivered, so the share is that of the delivered model. See :func:`graphprune.select` for ``scope``,
    ``skip_layers``, ``normalize``, ``homogeneous``, ``multiple_of``, ``min_units``, ``kinds`` and ``form``: by default
    what only the graph form can cut is left whole.

    ``criterion_options`` are those of the criterion, such as ``{"order": "second"}`` of ``taylor``; what is a setting
    of its own (``variant``, ``seed``) is not among them. ``make_up`` says what makes up for removed units beside
    training: with ``"weights"`` base weights change too, and a checkpoint holds them.

    ``schedule``, ``warmup`` and ``cooldown`` (shares of the training) give the ratio at each time; every ``interval``
    optimiser steps units are scored, and ``decay`` is the weight of the earlier scores in their moving average.

    ``compaction`` cuts the model while it is trained: each time that the pruned share has grown by so much since the
    last cut, and when pruning ends. None masks to the end, as the paper does (see docs/compaction.md).

    The rest is for :func:`graphprune.training.finetune.prune_while_tuning`, which makes adapters and a Trainer;
    with the callback these are the user's own. ``lora_targets="all-linear"`` is every linear layer but the last,
    and the matrices of experts; with these there is no ``lora_dropout``, which peft can't do there. ``steps``
    counts optimiser steps and replaces ``epochs``; ``window`` is the length in tokens of what the text is cut into;
    ``precision="bf16"`` computes products in bfloat16 and keeps weights as they are (autocast); ``save_steps`` is
    how often there is a checkpoint.

    Raises:
        BudgetError: the ratio is not in (0, 1).
        TrainingError: another setting is out of range.
        ScoreError: there is no such criterion, or it has no such options.
    """

    ratio: float
    of: Of = "base"
    criterion: str = "lora"
    criterion_options: Mapping[str, Any] = field(default_factory=dict)
    variant: Variant = "paper"
    schedule: str = "cubic"
    warmup: float = 0.1
    cooldown: float = 0.1
    interval: int = 10
    decay: float = 0.9
    scope: Scope = "global"
    skip_layers: tuple[int, ...] = ()
    normalize: Normalize | None = "group"
    homogeneous: bool = False
    multiple_of: PerKind = 1
    min_units: PerKind = 1
    kinds: tuple[str, ...] | None = None
    form: Form = "module"
    compaction: float | None = None
    make_up: MakeUp = "none"

    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_targets: str | tuple[str, ...] = "all-linear"
    learning_rate: float = 1e-4
    epochs: float = 2
    steps: int | None = None
    batch_size: int = 4
    accumulation: int = 1
    window: int = 128
    precision: Precision = "fp32"
    seed: int = 0
    save_steps: int = 50

    def __post_init__(self) -> None:
        for name in ("kinds", "lora_targets", "skip_layers"):
            value = getattr(self, name)
            if isinstance(value, Iterable) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        _check_types(self)
        object.__setattr__(self, "criterion_options", _plain_options(self.criterion_options))
        if not 0 < self.ratio < 1:
            raise BudgetError(f"the ratio must lie between 0 and 1, not {self.ratio}: 0.5 removes half")
        for name, choices in _CHOICES:
            if getattr(self, name) not in get_args(choices) and (name, getattr(self, name)) != ("normalize", None):
                allowed = ", ".join(get_args(choices))
                raise TrainingError(f"{name} must be one of {allowed}, not {getattr(self, name)!r}")
        schedule_by_name(self.schedule)
        self.make_criterion()
        _check_compaction(self)
        if self.warmup < 0 or self.cooldown < 0 or self.warmup + self.cooldown >= 1:
            raise TrainingError(
                f"warmup ({self.warmup}) and cooldown ({self.cooldown}) are shares of the training: they must not be "
                "negative, and must leave time to prune between them"
            )
        for name in ("decay", "lora_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 0 and less than 1, not {getattr(self, name)}")
        for name in ("interval", "lora_rank", "steps", "batch_size", "accumulation", "save_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainingError(f"{name} must be at least 1, not {value}")
        for name in ("lora_alpha", "learning_rate", "epochs"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name} must be greater than 0, not {getattr(self, name)}")
        if self.window < 2:
            raise TrainingError(f"a window of {self.window} tokens predicts nothing: it must have at least 2")

    def selection(self) -> dict[str, Any]:
        """What :func:`graphprune.select` is told beside the ratio, at every step alike."""
        names = ("of", "scope", "skip_layers", "normalize", "homogeneous", "multiple_of", "min_units", "kinds", "form")
        return {name: getattr(self, name) for name in names}

    def make_criterion(self) -> Criterion:
        """The criterion that these settings name."""
        match self.criterion:
            case "lora":
                own: dict[str, Any] = {"variant": self.variant}
            case "random":
                own = {"seed": self.seed}
            case _:
                own = {}
        return criterion_by_name(self.criterion, **own, **self.criterion_options)

    def to_json(self) -> str:
        """The settings as JSON text, one a line."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @staticmethod
    def from_json(text: str, name: str = "the text") -> PruneConfig:
        """Read settings from JSON text; ``name`` is what errors call it. What is not there has its default.

        Raises:
            FileFormatError: the text does not hold settings.
        """
        try:
            body = json.loads(text)
        except ValueError as error:
            raise FileFormatError(f"{name} is not a JSON object of settings: {error}") from error
        if not isinstance(body, dict) or "ratio" not in body:
            raise FileFormatError(f"{name} is not a JSON object of settings with at least a ratio")
        try:
            return PruneConfig.of_settings(body)
        except (BudgetError, ScoreError, TrainingError) as error:
            raise FileFormatError(f"{name} does not hold the settings of a run: {error}") from error

    @staticmethod
    def of_settings(settings: Mapping[str, Any]) -> PruneConfig:
        """Settings by name.

        Raises:
            TrainingError: there is no setting of a name, or there is no ratio.
        """
        known = [each.name for each in fields(PruneConfig)]
        for name in settings:
            if name not in known:
                raise TrainingError(f"there is no setting {name!r}; there are {', '.join(known)}")
        if settings.get("ratio") is None:
            raise TrainingError("say how much to prune: ratio=0.5 removes half of the parameters")
        return PruneConfig(**settings)

    def difference(self, other: PruneConfig) -> str | None:
        """The first setting that would make another result, as ``ratio=0.2 and not 0.5``; None where there is none."""
        for each in fields(self):
            mine, others = getattr(self, each.name), getattr(other, each.name)
            if mine != others and each.name not in _WITHOUT_EFFECT:
                return f"{each.name}={mine!r} and not {others!r}"
        return None


_CHOICES = (
    ("of", Of),
    ("variant", Variant),
    ("precision", Precision),
    ("form", Form),
    ("scope", Scope),
    ("normalize", Normalize),
    ("make_up", MakeUp),
)
"""Settings that are one of some words."""


def _check_types(config: PruneConfig) -> None:
    """Guard against settings of a wrong type, as a hand-written file may have them."""
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name in _OF_SEVERAL_TYPES:
            continue
        if value is None and each.default is None:
            continue
        kind = type(each.default) if each.name != "ratio" else float
        accepted: tuple[type, ...] = (int, float) if each.name in _REAL else (kind,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TrainingError(f"{each.name} must be of type {'float' if each.name in _REAL else kind.__name__}")
    if not isinstance(config.skip_layers, tuple) or not all(type(each) is int for each in config.skip_layers):
        raise TrainingError(f"skip_layers must be positions of layers, as in (0, 1, -1), not {config.skip_layers!r}")
    for name in ("multiple_of", "min_units"):
        value = getattr(config, name)
        numbers = list(value.values()) if isinstance(value, Mapping) else [value]
        if any(isinstance(number, bool) or not isinstance(number, int) or number < 1 for number in numbers):
            raise TrainingError(f"{name} must be a number of units, or one for each kind of group, not {value!r}")
    for name, alternative in (("kinds", type(None)), ("lora_targets", str)):
        value = getattr(config, name)
        words = isinstance(value, tuple) and all(isinstance(each, str) for each in value)
        if not words and not isinstance(value, alternative):
            raise TrainingError(f"{name} must be a list of words, not {value!r}")
    if config.steps is not None and (isinstance(config.steps, bool) or not isinstance(config.steps, int)):
        raise TrainingError("steps must be of type int")


def _plain_options(options: object) -> dict[str, Any]:
    """The options of a criterion as they are read from JSON again.

    Raises:
        TrainingError: they are no options that JSON can hold, or a setting of its own is among them.
    """
    try:
        plain = json.loads(json.dumps(options))
    except (TypeError, ValueError):
        plain = None
    if not isinstance(plain, dict):
        raise TrainingError(
            f"criterion_options must be values by name that JSON can hold, as in {{'order': 'second'}}, not {options!r}"
        )
    for name in ("variant", "seed"):
        if name in plain:
            raise TrainingError(f"{name} is a setting of its own: give it as that, and not in criterion_options")
    return plain


def _check_compaction(config: PruneConfig) -> None:
    """Guard against settings that leave nothing to be cut in the model that is trained, or to compare the cut with."""
    if config.compaction is None:
        return
    if not 0 <= config.compaction < 1:
        raise TrainingError(f"compaction must be at least 0 and less than 1, not {config.compaction}")
    if config.form != "module":
        raise TrainingError(
            f"compaction cuts the module that is trained, and form={config.form!r} allows what no module form has: "
            "use form='module', or compaction=None"
        )
    if "statistics" in (config.kinds or ()):
        raise TrainingError(
            "compaction cuts what the masked model computes alike, and norms over a width that is cut count what is "
            "kept: leave 'statistics' out of kinds, or use compaction=None"
        )


_OF_SEVERAL_TYPES = {
    "kinds",
    "lora_targets",
    "skip_layers",
    "normalize",
    "multiple_of",
    "min_units",
    "steps",
    "criterion_options",
}

_REAL = {"ratio", "warmup", "cooldown", "decay", "compaction", "lora_dropout", "learning_rate", "epochs"}

_WITHOUT_EFFECT = {"save_steps", "compaction"}
"""Settings that change what a run costs, and not, but for rounding, what comes out."""
