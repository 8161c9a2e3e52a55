"""Prune the architectures of the zoo and write ``docs/architectures.md``: ``python tools/zoo_table.py [KIND …]``.

KIND is ``language``, ``vision``, ``plain``, ``timm`` (which needs timm and torchvision), ``libraries`` (those that are
installed, half an hour), ``every`` (model types of transformers, half an hour), ``sized_text`` or ``sized_images``
(types that were made small by hand, ten minutes each); without one the first three are run, with ``page`` none;
``vision:levit,cvt`` runs those two. What was found is kept in ``docs/architectures``, a file for each kind, so that
what is not run stays as it is.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs/architectures"
KINDS = {
    "language": "tests.zoo.language:LANGUAGE",
    "vision": "tests.zoo.vision:VISION",
    "plain": "tests.zoo.plain:PLAIN",
    "timm": "tests.zoo.timm_models:TIMM",
    "libraries": "tests.zoo.libraries:LIBRARIES",
    "every": "tests.zoo.every:EVERY",
    "sized_text": "tests.zoo.sized_text:SIZED_TEXT",
    "sized_images": "tests.zoo.sized_images:SIZED_IMAGES",
}
SIZED = ("sized_text", "sized_images")

TITLES = {
    "language": "Language models (transformers)",
    "vision": "Vision, audio and several at once (transformers)",
    "plain": "Plain torch",
    "timm": "timm",
}

BELOW: dict[str, str] = {
    "bit": "the width of its bottlenecks could be cut; it standardises its weights, and its group norms then see other "
    "values.",
    "data2vec_audio": "the channels of its feature extractor could be cut; a norm with a bias takes its statistic over "
    "them.",
    "diffusion_unet": "the skip connection could be cut with its group norm; its groups run across the place where two "
    "tensors are concatenated.",
}
"""Rows that are pruned less than a person would prune them by hand, with what that person would do."""

SCALED = "at each run its attention divides by the root of the size of its heads, which would then be another."
ONE_WIDTH = "its attention has one number for the width of the residual and for that of all its heads together."
NORMED = (
    "one number counts the dims of queries, keys and values, and those of queries and keys are normed: all go "
    "together, when asked for (`kinds=['statistics', 'head_dims']`)."
)
SLOPES = "the slopes of its positions are made from the number of heads, and those of the heads that stay are others."
AS_WIDE = (
    "its relative positions are made as wide as the residual, and the matrix that takes them in could be narrower."
)
PARTLY: dict[str, str] = {
    "qwen3": NORMED,
    "gemma3": NORMED,
    "olmo2": NORMED,
    "exaone4": NORMED,
    "qwen3_moe": NORMED,
    "codegen": "its heads are stored in four parts, a number in its code.",
    "bloom": SLOPES,
    "mpt": SLOPES,
    "falcon": SCALED,
    "phimoe": "its rotary frequencies are made at each run from the width of the residual and the number of heads.",
    "jetmoe": "in its attention `hidden_size` is the width of all heads together, elsewhere that of the residual.",
    "mpnet": SCALED,
    "longformer": f"{ONE_WIDTH[:-1]}; and {SCALED}",
    "convbert": SCALED,
    "big_bird": SCALED,
    "funnel": AS_WIDE,
    "xlm": SCALED,
    "deberta_v2": SCALED,
    "modernbert": SCALED,
    "prophetnet": f"{ONE_WIDTH[:-1]}; and {SCALED}",
    "led": ONE_WIDTH,
    "roformer": SCALED,
    "xlnet": AS_WIDE,
    "fsmt": ONE_WIDTH,
}
"""Language models of which the module form can't express every group, with the reason in their code."""


def run(kind: str, chosen: list[str]) -> None:
    """Run each architecture of a kind anew, or only the chosen ones, and keep what was found."""
    study = importlib.import_module("tests.zoo.study").study
    module, _, table = KINDS[kind].partition(":")
    kept = KEPT / f"{kind}.json"
    rows: dict[str, Any] = json.loads(kept.read_text())["rows"] if chosen and kept.exists() else {}
    for name, entry in getattr(importlib.import_module(module), table).items():
        if chosen and name not in chosen:
            continue
        started = time.perf_counter()
        try:
            rows[name] = asdict(study(name, entry, asked=kind in (*TITLES, *SIZED)))
        except Exception as error:  # a fault of ours, which the table is to show
            rows[name] = {"name": name, "problem": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        print(f"{kind} {name} {time.perf_counter() - started:.1f} s {rows[name]['problem'] or ''}", flush=True)
        text = json.dumps({"torch": importlib.import_module("torch").__version__, "rows": rows}, indent=1)
        kept.write_text(f"{text}\n")


def share(value: float) -> str:
    """A share as a whole number of per cent."""
    return f"{value:.0%}"


def form(row: dict[str, Any]) -> str:
    """What the module form can do."""
    if row["module_error"] is None:
        return f"no: {short(row['module_problem'] or '')}"
    return "yes" if row["module_groups"] == row["prunable"] else f"{row['module_groups']} of {row['prunable']} groups"


def asked(row: dict[str, Any]) -> str:
    """What is cut only when asked for: how many groups of which kind, and whether half of each could be."""
    found = ", ".join(f"{count} {kind}" for kind, count in row.get("asked", ()))
    return f"{found}: {short(row['asked_problem'])}" if row.get("asked_problem") else found


def short(reason: str) -> str:
    """A reason that fits into a cell."""
    reason = reason.split(" at File ")[0].split(". Check that")[0].replace("|", "\\|").replace("`", "")
    return reason if len(reason) <= 120 else reason[:117] + "…"


def frozen(row: dict[str, Any]) -> str:
    """Why groups are not cut, those left out that are no one's wish: inputs, outputs, windows, vocabularies."""
    plain = ("it is a spatial dim", "it is a dim of an", "its positions are named by data (embedding)")
    return "; ".join(f"{short(why)} ({count})" for why, count in row["frozen"] if not why.startswith(plain))


def table(kind: str, rows: dict[str, Any]) -> list[str]:
    """The lines of a table."""
    lines = [
        "| architecture | groups | prunable | share prunable | at most | parameters | after half | error | module form "
        "| when asked for | not cut, and why |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --- | --- | --- |",
    ]
    for name, row in rows.items():
        label = f"{name} *" if name in BELOW else name
        label += " (by example)" if row.get("by_example") else ""
        if row["problem"]:
            cells = [
                label,
                *[""] * 8,
                asked(row),
                f"**{short(row['problem'])}**; {frozen(row) if 'frozen' in row else ''}".rstrip("; "),
            ]
        else:
            cells = [
                label,
                str(row["groups"]),
                str(row["prunable"]),
                share(row["share"]),
                share(row["largest"]),
                f"{row['before']:,}",
                f"{row['after']:,}",
                f"{row['graph_error']:.0e}",
                form(row),
                asked(row),
                frozen(row),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def outcomes(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], ...]:
    """The rows that are pruned, of these those with a module form, and of these those that it has every group of."""
    pruned = [row for row in rows if not row["problem"]]
    whole = [row for row in pruned if row["module_error"] is not None]
    return pruned, whole, [row for row in whole if row["module_groups"] == row["prunable"]]


def is_built(row: dict[str, Any]) -> bool:
    """Whether there was a model to prune."""
    return not (row["problem"] or "").startswith("it is not built")


def verified(rows: list[dict[str, Any]]) -> str:
    """What is said of the rows that are pruned."""
    pruned, whole, complete = outcomes(rows)
    error = max(row["graph_error"] for row in pruned)
    return (
        f"pruned and verified, with a difference of at most {error:.0e}; {len(whole)} have a module form, "
        f"{len(complete)} of them with every group."
    )


def other_libraries(rows: dict[str, Any], version: str) -> list[str]:
    """What became of the models of other libraries, a line for each library."""
    built = [row for row in rows.values() if is_built(row)]
    pruned = outcomes(built)[0]
    names: dict[str, list[str]] = {}
    for row in pruned:
        library, _, name = row["name"].partition(" ")
        names.setdefault(library, []).append(name)
    return [
        "",
        "## Other libraries",
        "",
        "`python tools/zoo_table.py libraries`, where they are installed, does the same with models of other libraries "
        "(`tests/zoo/libraries.py`), of which nothing was known when the rules were written.",
        "",
        f"**Of {len(built)} models (torch {version}) {len(pruned)} are {verified(built)}**",
        "",
        *(f"- **{row['name']}**: {short(row['problem'])}." for row in built if row["problem"]),
        "",
        "Pruned:",
        "",
        *(f"- {library}: {', '.join(each)}." for library, each in names.items()),
    ]


def every_type(rows: dict[str, Any], version: str) -> list[str]:
    """What became of all model types of transformers, in lists: there are too many for a table."""
    built = {name: row for name, row in rows.items() if is_built(row)}
    names = [row["name"] for row in outcomes(list(built.values()))[0]]
    lines = [
        "",
        "## Every model type of transformers",
        "",
        "`python tools/zoo_table.py every` makes the default config of each type small by one set of rules "
        "(`tests/zoo/every.py`), none of them for one type, and does with the first class of that type what was done "
        "with the rows above.",
        "",
        f"**Of {len(rows)} types (torch {version}) the rules give {len(built)} a model that runs. {len(names)} of "
        f"these are {verified(list(built.values()))}**",
        "",
    ]
    lines += [f"- **{name}**: {short(row['problem'])}." for name, row in built.items() if row["problem"]]
    lines += ["", f"Pruned: {', '.join(names)}.", ""]
    others = ", ".join(name for name in rows if name not in built)
    lines += [f"Sizes that do not fit together, too large, or another library is needed: {others}."]
    return lines


def sized(parts: dict[str, Any]) -> list[str]:
    """What became of models that were made small by hand, in lists."""
    rows = {name: row for part in parts.values() for name, row in part["rows"].items()}
    pruned = outcomes(list(rows.values()))[0]
    by_example = [row["name"] for row in pruned if row["by_example"]]
    version = ", ".join(dict.fromkeys(part["torch"] for part in parts.values()))
    return [
        "",
        "### Made small by hand",
        "",
        f"`python tools/zoo_table.py {' '.join(SIZED)}` does the same with small configs that were written for types "
        "of which these rules give no model, and for models that take images, sound and texts together "
        "(`tests/zoo/sized_text.py`, `tests/zoo/sized_images.py`).",
        "",
        f"**Of {len(rows)} models (torch {version}) {len(pruned)} are {verified(list(rows.values()))}** "
        f"{len(by_example)} of them were captured by example: {', '.join(by_example)}.",
        "",
        *(f"- **{name}**: {short(row['problem'])}." for name, row in rows.items() if row["problem"]),
        *(
            f"- **{name}**, what is cut only when asked for: {short(row['asked_problem'])}."
            for name, row in rows.items()
            if row["asked_problem"] and not row["problem"]
        ),
        "",
        f"Pruned: {', '.join(row['name'] for row in pruned)}.",
    ]


def document(stored: dict[str, Any]) -> str:
    """The page."""
    every, libraries = stored.pop("every", None), stored.pop("libraries", None)
    by_hand = {kind: stored.pop(kind) for kind in SIZED if kind in stored}
    kept = [row for part in stored.values() for row in part["rows"].values()]
    pruned, whole, complete = outcomes(kept)
    below = [row["name"] for row in kept if row["name"] in BELOW]
    more = [row for row in kept if row.get("asked") and not row["asked_problem"]]
    error = max((row["asked_error"] for row in more if row["asked_error"] is not None), default=0.0)
    lines = [
        "# Architectures",
        "",
        "Made by `python tools/zoo_table.py` and, where timm is installed, `python tools/zoo_table.py timm`; do not "
        "edit. Every model has random weights and is small. Half of the units of every prunable group are cut, and the "
        "result is compared with the masked original.",
        "",
        f"**{len(kept)} architectures, {len(pruned)} pruned and verified; {len(whole)} have a module form, "
        f"{len(complete)} of them with every group. {len(below)} are pruned below what a person would prune (\\*).**",
        "",
        "*share prunable*: of the parameters, those that belong to a unit of a prunable group; *at most*: the share "
        "that goes when every group keeps one unit; *after half*: the parameters with half of every group gone, which "
        "is what the plan says to the parameter; *error*: the largest difference of the graph form from the masked "
        "original, relative to the largest output; *module form*: whether the sliced module of the same class computes "
        "the same, or for how many groups; *when asked for*: groups of the kinds `statistics` and `experts`, which are "
        "cut only by that name, since masking them is not the same as cutting them. Half of these were cut too, and "
        f"verified, in the {len(more)} rows that name no problem there, with a difference of at most {error:.0e}. "
        "Not listed as *not cut*: dims of inputs and outputs, vocabularies, and the "
        "spatial dims of convolutions. *(by example)*: it branches on the values of its inputs, and was captured the "
        "way that these take (`by_example=True`).",
    ]
    for kind, title in TITLES.items():
        if kind in stored:
            part = stored[kind]
            lines += ["", f"## {title}", "", f"torch {part['torch']}, {len(part['rows'])} rows.", ""]
            lines += table(kind, part["rows"])
    if libraries is not None:
        lines += other_libraries(libraries["rows"], libraries["torch"])
    if every is not None:
        lines += every_type(every["rows"], every["torch"])
    if by_hand:
        lines += sized(by_hand)
    lines += ["", "## Below what a person would prune", ""]
    lines += [f"- **{name}**: {BELOW[name]}" for name in below] or ["None."]
    lines += ["", "## Why the module form has fewer groups", "", "Of language models; the graph form cuts all of them."]
    partly: dict[str, list[str]] = {}
    for name, why in PARTLY.items():
        partly.setdefault(why, []).append(f"**{name}**")
    lines += ["", *(f"- {', '.join(names)}: {why}" for why, names in partly.items())]
    return "\n".join(lines) + "\n"


def main(kinds: list[str]) -> None:
    """Run the kinds and write the page."""
    KEPT.mkdir(exist_ok=True)
    for each in kinds:
        kind, _, chosen = each.partition(":")
        run(kind, chosen.split(",") if chosen else [])
    files = {kind: KEPT / f"{kind}.json" for kind in KINDS}
    stored = {kind: json.loads(file.read_text()) for kind, file in files.items() if file.exists()}
    (ROOT / "docs/architectures.md").write_text(document(stored))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    main([kind for kind in sys.argv[1:] if kind != "page"] if len(sys.argv) > 1 else ["language", "vision", "plain"])
