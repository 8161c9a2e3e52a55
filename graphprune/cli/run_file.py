"""Files for ``graphprune prune --config``: what would stand on the command line, by name.

::

    # run.yaml                           OUT/plan.json
    model: HuggingFaceTB/SmolLM2-135M    "about": {"source": …, "text": …, "tuned": true, "settings": {…}}
    output: small
    ratio: 0.2
    learning_rate: 5e-4

A file is YAML or JSON with settings of :class:`graphprune.PruneConfig` and what is to be done with them, or the plan of
an earlier run, which says the same of that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import BudgetError, FileFormatError, ScoreError, TrainingError
from ..plan import FORMAT, PruningPlan
from ..training.config import PruneConfig

RUN: Mapping[str, type] = {
    "model": str,
    "output": str,
    "text": str,
    "adapter": str,
    "tune": bool,
    "merge": bool,
    "base_bits": int,
}
"""What a file may hold beside settings, and its types."""

_WORDS = {str: "a word", bool: "true or false", int: "a whole number"}


@dataclass(frozen=True)
class RunFile:
    """Settings by their names in :class:`graphprune.PruneConfig`, and the rest by the names in ``RUN``."""

    settings: Mapping[str, Any]
    run: Mapping[str, Any]


def read_run(path: Path) -> RunFile:
    """What a file says of a run. Keys may have ``-`` for ``_``, as on the command line.

    Raises:
        FileFormatError: the file can't be read, holds a key that there is not, or a value of a wrong type; names it.
    """
    body = _read(path)
    if body.get("format") == FORMAT:
        return _of_plan(PruningPlan.load(path), path)
    body = {str(name).replace("-", "_"): value for name, value in body.items()}
    known = [*RUN, *(each.name for each in fields(PruneConfig))]
    for name in body:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            way_out = f"is {near[0]} meant?" if near else f"there are {', '.join(known)}"
            raise FileFormatError(f"{path} sets {name}, and there is no such setting: {way_out}")
    run = {name: body[name] for name in RUN if body.get(name) is not None}
    for name, value in run.items():
        if type(value) is not RUN[name]:
            raise FileFormatError(f"{path} sets {name} to {value!r}, and it must be {_WORDS[RUN[name]]}")
    if run.get("base_bits", 8) not in (8, 4):
        raise FileFormatError(f"{path} sets base_bits to {run['base_bits']}, and it must be 8 or 4")
    settings = {name: value for name, value in body.items() if name not in RUN}
    try:
        PruneConfig.of_settings({"ratio": 0.5, **settings})
    except (BudgetError, ScoreError, TrainingError) as error:
        raise FileFormatError(f"{path} does not hold the settings of a run: {error}") from error
    return RunFile(settings, run)


def _of_plan(plan: PruningPlan, path: Path) -> RunFile:
    """The run that made a plan.

    Raises:
        FileFormatError: the plan does not say.
    """
    about = plan.about
    text = json.dumps(about.get("settings"))
    settings = PruneConfig.from_json(text, f"what the plan {path} says of its settings")
    run = {"model": about.get("source"), "adapter": about.get("adapter"), "tune": about.get("tuned")}
    run |= about.get("given") or {}
    found = {name: value for name, value in run.items() if value is not None}
    return RunFile({each.name: getattr(settings, each.name) for each in fields(settings)}, found)


def _read(path: Path) -> dict[str, Any]:
    """The mapping in a file of YAML, or of JSON where its name ends so.

    Raises:
        FileFormatError: the file can't be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"the settings {path} can't be read: {error}") from error
    kind, body = ("JSON", _json(text, path)) if path.suffix == ".json" else ("YAML", _yaml(text, path))
    if not isinstance(body, dict):
        raise FileFormatError(f"{path} is not {kind} of settings by name, as in ratio: 0.2")
    return body


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise FileFormatError(
            f"{path} is not JSON ({error}): mend it, or call it .yaml if that is what it is"
        ) from error


def _yaml(text: str, path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """YAML in which no key of a mapping stands twice, and 1e-4 is a number, as in YAML 1.2."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            for name in names:
                if names.count(name) > 1:
                    raise yaml.constructor.ConstructorError(None, None, f"{name} stands twice", node.start_mark)
            return super().construct_mapping(node, deep)

    number = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise FileFormatError(f"{path} is not YAML{where}: {problem or ' '.join(str(error).split())}") from error
