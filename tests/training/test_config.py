"""The settings of a run."""

from dataclasses import replace
from typing import Any

import pytest

from graphprune.criteria import Magnitude, Taylor
from graphprune.errors import BudgetError, FileFormatError, ScoreError, TrainingError
from graphprune.training.config import PruneConfig


def test_json_gives_the_same_settings_back() -> None:
    config = PruneConfig(
        ratio=0.3,
        kinds=("channels",),
        multiple_of={"channels": 8},
        scope="layer",
        skip_layers=(0, -1),
        normalize=None,
        steps=7,
        compaction=0.1,
        lora_targets=("q_proj", "v_proj"),
        criterion="taylor",
        criterion_options={"order": "mixed"},
        make_up="weights",
    )
    assert PruneConfig.from_json(config.to_json()) == config
    assert PruneConfig.from_json('{"ratio": 0.5}') == PruneConfig(ratio=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": 0}, "interval must be at least 1, not 0"),
        ({"decay": 1}, "decay must be at least 0 and less than 1, not 1"),
        ({"of": "flops"}, "of must be one of parameters, base, prunable, macs, not 'flops'"),
        ({"scope": "row"}, "scope must be one of global, layer, group, not 'row'"),
        ({"normalize": "mean"}, "normalize must be one of group, group_l2, kind, kind_l2, not 'mean'"),
        ({"skip_layers": 3}, "skip_layers must be positions of layers, as in (0, 1, -1), not 3"),
        ({"learning_rate": "fast"}, "learning_rate must be of type float"),
        ({"homogeneous": 1}, "homogeneous must be of type bool"),
        ({"min_units": 0}, "min_units must be a number of units, or one for each kind of group, not 0"),
        ({"make_up": "luck"}, "make_up must be one of none, bias, weights, not 'luck'"),
        (
            {"criterion_options": ["order"]},
            "criterion_options must be values by name that JSON can hold, as in {'order': 'second'}, not ['order']",
        ),
        (
            {"criterion_options": {"variant": "released"}},
            "variant is a setting of its own: give it as that, and not in criterion_options",
        ),
        ({"window": 1}, "a window of 1 tokens predicts nothing: it must have at least 2"),
        ({"compaction": 1}, "compaction must be at least 0 and less than 1, not 1"),
        ({"compaction": True}, "compaction must be of type float"),
        (
            {"compaction": 0.1, "form": "graph"},
            "compaction cuts the module that is trained, and form='graph' allows what no module form has: use "
            "form='module', or compaction=None",
        ),
        (
            {"compaction": 0.1, "kinds": ("channels", "statistics")},
            "compaction cuts what the masked model computes alike, and norms over a width that is cut count what is "
            "kept: leave 'statistics' out of kinds, or use compaction=None",
        ),
        (
            {"warmup": 0.5, "cooldown": 0.5},
            "warmup (0.5) and cooldown (0.5) are shares of the training: they must not be negative, and must leave "
            "time to prune between them",
        ),
    ],
)
def test_a_setting_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError) as error:
        PruneConfig(ratio=0.5, **settings)
    assert str(error.value) == message


@pytest.mark.parametrize("ratio", [0, 1, -0.5, float("nan")])
def test_a_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(BudgetError, match=r"^the ratio must lie between 0 and 1, not .*: 0\.5 removes half$"):
        PruneConfig(ratio=ratio)


def test_an_unknown_criterion() -> None:
    with pytest.raises(ScoreError, match="there is no criterion 'best'"):
        PruneConfig(ratio=0.5, criterion="best")


def test_options_of_the_criterion() -> None:
    options = {"order": "second", "level": "vector"}
    config = PruneConfig(ratio=0.5, criterion="taylor", criterion_options=options)
    assert config.make_criterion() == Taylor("second", "vector")
    assert PruneConfig(ratio=0.5, criterion="magnitude", criterion_options={"order": 1}).make_criterion() == Magnitude(
        1
    )
    with pytest.raises(ScoreError, match=r"^order must be 1 or 2 for magnitude, not 'second'$"):
        PruneConfig(ratio=0.5, criterion="magnitude", criterion_options={"order": "second"})
    with pytest.raises(ScoreError, match=r"^the criterion 'lora' can't be made with "):
        PruneConfig(ratio=0.5, criterion_options={"order": 1})


def test_settings_that_are_no_json() -> None:
    with pytest.raises(FileFormatError, match=r"^run\.json is not a JSON object of settings with at least a ratio$"):
        PruneConfig.from_json("[]", "run.json")
    with pytest.raises(
        FileFormatError, match=r"^run\.json does not hold the settings of a run: there is no setting 'intervall'"
    ):
        PruneConfig.from_json('{"ratio": 0.5, "intervall": 3}', "run.json")


def test_difference_names_the_first_setting_that_matters() -> None:
    config = PruneConfig(ratio=0.5)
    assert config.difference(replace(config, save_steps=3, compaction=0.1)) is None
    assert config.difference(replace(config, ratio=0.2, seed=1)) == "ratio=0.5 and not 0.2"
