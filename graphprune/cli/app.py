"""The commands and their options."""

from __future__ import annotations

import io
import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from .shell import Command, Commands

app = typer.Typer(
    name="graphprune",
    cls=Commands,
    help="Make a neural network structurally smaller, by its dataflow graph.",
    epilog="""
    graphprune inspect MODEL                     # which units leave together
    graphprune prune MODEL --ratio 0.2 -o OUT    # prune it while it is tuned
    graphprune export OUT -o out.onnx            # the result as ONNX, checked
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class CriterionName(StrEnum):
    """How units are scored."""

    lora = "lora"
    taylor = "taylor"
    wanda_sp = "wanda_sp"
    flap = "flap"
    magnitude = "magnitude"
    random = "random"
    fisher = "fisher"


class MakeUp(StrEnum):
    """What makes up for removed units after pruning at once."""

    none = "none"
    bias = "bias"
    weights = "weights"


class BaseBits(StrEnum):
    """How many bits a weight of the model has while it is tuned."""

    eight = "8"
    four = "4"


class Variant(StrEnum):
    """Which form of the LoRA-guided criterion."""

    paper = "paper"
    released = "released"


class Of(StrEnum):
    """What a ratio is a share of."""

    base = "base"
    parameters = "parameters"
    prunable = "prunable"
    macs = "macs"


class Precision(StrEnum):
    """The type of the weights in an ONNX file."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Part(StrEnum):
    """What of a model is exported."""

    encoder = "encoder"
    decoder = "decoder"


class GGUFType(StrEnum):
    """The type of matrices in a GGUF file."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"


class Kind(StrEnum):
    """What a group's units are."""

    channels = "channels"
    heads = "heads"
    repeats = "repeats"
    head_dims = "head_dims"
    experts = "experts"
    lora_rank = "lora_rank"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graphprune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Print more of each stage, and what other libraries say."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Make a neural network structurally smaller, by its dataflow graph."""


Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model directory, or a name on the Hugging Face hub.")]
Text = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|DATASET",
        help="A .txt or .jsonl file, or a Hugging Face dataset; without it the language reference of CPython.",
    ),
]
Window = Annotated[int, typer.Option(metavar="TOKENS", help="Tokens in a window of text.")]
Adapted = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model directory, a name on the Hugging Face hub, or the directory of an adapter."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be cut, from the config alone, and write nothing.")
]
DryRunOfWriting = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be written and how large, from the config alone.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="The directory to write; must be new.", show_default=False),
]


@app.command(
    cls=Command,
    short_help="Do all of it on SmolLM2, in minutes.",
    epilog="""
    graphprune demo
    graphprune demo --ratio 0.3 --steps 200 --model MODEL -o OUT
    """,
)
def demo(
    ratio: Annotated[float, typer.Option(metavar="R", help="The share to remove.")] = 0.2,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The directory to write; must be new.")
    ] = Path("graphprune-demo"),
    text: Text = None,
    steps: Annotated[int, typer.Option(metavar="N", help="Optimiser steps of tuning.")] = 60,
    windows: Annotated[int, typer.Option(metavar="N", help="Score at most N held-out windows.")] = 64,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Another model than SmolLM2-135M-Instruct.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of data order and adapters.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and written; download no weights.")
    ] = False,
) -> None:
    """Do all of it on SmolLM2 in minutes: trace, prune while tuning, verify, export, compare."""
    from ..files import refuse_existing

    refuse_existing(output)

    if dry_run:
        from .demo import demo_config
        from .dry_run import dry_demo

        dry_demo(output, demo_config(ratio, steps, seed), text=text, model=model, limit=windows)
        return

    from .demo import demo as run

    run(output, ratio=ratio, steps=steps, text=text, model=model, limit=windows, seed=seed)


@app.command(
    cls=Command,
    short_help="Prune a model while it is fine-tuned.",
    epilog="""
    graphprune prune MODEL --ratio 0.2 -o OUT --text tune.txt
    graphprune prune MODEL --ratio 0.5 -o OUT --no-tune --criterion magnitude
    graphprune prune ADAPTER --ratio 0.2 -o OUT --keep-adapters
    graphprune prune MODEL --ratio 0.2 --dry-run
    graphprune prune --config run.yaml --seed 1
    graphprune prune --config OUT/plan.json -o AGAIN --text tune.txt
    """,
)
def prune(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A model directory, a name on the Hugging Face hub, or the directory of an adapter.",
            show_default=False,
        ),
    ] = None,
    output: Output = None,
    ratio: Annotated[
        float | None, typer.Option(metavar="R", help="The share to remove: 0.2 removes a fifth.", show_default=False)
    ] = None,
    text: Text = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="A file of settings in YAML or JSON, or the plan.json of a result to prune as before; options given "
            "here come before it.",
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="An adapter that peft wrote, to be trained on in place of a new one."),
    ] = None,
    criterion: Annotated[CriterionName, typer.Option(help="How units are scored.")] = CriterionName.lora,
    variant: Annotated[
        Variant, typer.Option(help="The lora criterion as in the paper, or in its code.")
    ] = Variant.paper,
    criterion_options: Annotated[
        list[str] | None,
        typer.Option("--criterion-option", metavar="NAME=VALUE", help="An option of the criterion, as order=second."),
    ] = None,
    of: Annotated[Of, typer.Option(help="What the ratio is a share of; base: all but the adapters.")] = Of.base,
    homogeneous: Annotated[
        bool,
        typer.Option(
            "--homogeneous/--free",
            help="Cut every layer alike, so that plain transformers loads the result; or each layer as its scores say.",
        ),
    ] = True,
    multiple_of: Annotated[int, typer.Option(metavar="N", help="Keep a multiple of N channels.")] = 1,
    tune: Annotated[bool, typer.Option("--tune/--no-tune", help="Fine-tune while pruning, or prune at once.")] = True,
    make_up: Annotated[
        MakeUp, typer.Option(help="What makes up for removed units: weights that stay, or with --no-tune biases.")
    ] = MakeUp.none,
    epochs: Annotated[float, typer.Option(metavar="N", help="How often the text is gone through.")] = 2.0,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Optimiser steps, in place of epochs.")] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Windows in a batch.")] = 4,
    window: Window = 128,
    learning_rate: Annotated[float, typer.Option(metavar="LR", help="Learning rate of the adapters.")] = 1e-4,
    lora_rank: Annotated[int, typer.Option(metavar="N", help="Rank of the adapters.")] = 8,
    interval: Annotated[int, typer.Option(metavar="N", help="Steps from one pruning to the next.")] = 10,
    save_steps: Annotated[int, typer.Option(metavar="N", help="Steps from one checkpoint to the next.")] = 50,
    compaction: Annotated[
        float | None,
        typer.Option(
            metavar="R", help="Cut the model while it is tuned, each time that a share of R is pruned; 0.1 is fine."
        ),
    ] = None,
    base_bits: Annotated[
        BaseBits | None,
        typer.Option(help="Tune on weights in so few bits, by bitsandbytes; the result has plain ones."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of data order and adapters.")] = 0,
    merge: Annotated[
        bool, typer.Option("--merge/--keep-adapters", help="Merge the adapters into the weights, or save them beside.")
    ] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Prune a model while it is fine-tuned with LoRA, and save what is left to a new directory.

    Checkpoints lie in OUTPUT.run until the model is saved; after Ctrl-C the same command with --resume goes on.
    """
    options: dict[str, Any] = {
        "ratio": ratio,
        "of": of.value,
        "criterion": criterion.value,
        "criterion_options": _values(criterion_options or []),
        "variant": variant.value,
        "make_up": make_up.value,
        "homogeneous": homogeneous,
        "multiple_of": multiple_of,
        "lora_rank": lora_rank,
        "learning_rate": learning_rate,
        "interval": interval,
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "window": window,
        "seed": seed,
        "save_steps": save_steps,
        "compaction": compaction,
    }
    rest: dict[str, Any] = {"model": model, "output": output, "text": text, "adapter": adapter}
    rest |= {"tune": tune, "merge": merge, "base_bits": None if base_bits is None else int(base_bits.value)}
    if settings is not None:
        from .run_file import read_run

        file = read_run(settings)
        options = {**options, **file.settings, **{name: options[name] for name in options if _is_given(context, name)}}
        rest = {**rest, **file.run, **{name: rest[name] for name in rest if _is_given(context, name)}}
    for name, hint, what in (
        ("model", "'MODEL'", "say which model"),
        ("output", "'--output'", "say where to"),
    ):
        if rest[name] is None and not (dry_run and name == "output"):
            raise typer.BadParameter(f"{what}, here or in the file of --config.", param_hint=hint)
    if options["ratio"] is None:
        raise typer.BadParameter("say how much to remove, or give --config.", param_hint="'--ratio'")
    target = None if rest["output"] is None else Path(rest["output"])
    if target is not None:
        from ..files import refuse_existing

        refuse_existing(target)

    from ..training.config import PruneConfig

    config = PruneConfig.of_settings(options)
    on = None if rest["adapter"] is None else Path(rest["adapter"])
    if dry_run or target is None:
        from .dry_run import dry_prune

        dry_prune(rest["model"], config, adapter=on)
        return

    from .prune import prune as run

    run(
        rest["model"],
        target,
        config,
        text=rest["text"],
        adapter=on,
        tune=rest["tune"],
        merge=rest["merge"],
        resume=resume,
        bits=rest["base_bits"],
    )


def _values(options: list[str]) -> dict[str, Any]:
    """From ``["order=1"]`` to ``{"order": 1}``: a value is JSON, or else a word."""
    values: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{option} is not NAME=VALUE.", param_hint="'--criterion-option'")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands in the command line, and has not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.command(
    cls=Command,
    short_help="Show the pruning groups of a model.",
    epilog="""
    graphprune inspect MODEL
    graphprune inspect MODEL --why q_proj.weight o_proj.weight
    graphprune inspect net.py:make --html groups.html --svg groups.svg
    graphprune inspect MODEL --json > groups.json
    """,
)
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model directory, a name on the hub, the directory of an adapter, a .pt2 file, or FILE.py:FUNCTION "
            "(MODULE:FUNCTION) that returns a model and an example of what it takes.",
        ),
    ],
    every: Annotated[bool, typer.Option("--all", help="Do not fold layers that are alike.")] = False,
    kind: Annotated[list[Kind] | None, typer.Option(help="Only groups of this kind (may be repeated).")] = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Only groups that are never cut, with the reasons.")] = False,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="What this group is: its members, and what couples them.")
    ] = None,
    parameter: Annotated[
        str | None, typer.Option("--param", metavar="NAME", help="The axes of this parameter, and the groups in them.")
    ] = None,
    why: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Why two groups or parameters are cut together, with the calls between them."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the form for machines, members included.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write them as a picture to click through, in one HTML file.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them as a picture for print.")] = None,
    dot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them as a graph for Graphviz.")] = None,
    graphml: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them as a graph for networkx.")] = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Put LoRA adapters on the linear layers first, as prune does.")
    ] = False,
) -> None:
    """Show the pruning groups of a model; its weights are not needed."""
    answers = {"--json": json, "--group": group is not None, "--param": parameter is not None, "--why": why is not None}
    given = [name for name, is_given in answers.items() if is_given]
    if len(given) > 1:
        raise typer.BadParameter("give one of them.", param_hint=" and ".join(given))

    from .inspect import PICTURES
    from .inspect import inspect as run

    files = zip(PICTURES, (html, svg, dot, graphml), strict=True)
    run(
        model,
        lora=lora,
        as_json=json,
        every=every,
        kinds=[each.value for each in kind or ()],
        frozen=frozen,
        group=group,
        parameter=parameter,
        why=why,
        pictures={form: path for form, path in files if path is not None},
    )


@app.command(
    name="eval",
    cls=Command,
    short_help="Measure models side by side.",
    epilog="""
    graphprune eval MODEL OUT --text test.txt
    graphprune eval MODEL OUT out.onnx --markdown > table.md
    """,
)
def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Model directories, names on the hub, ONNX files.")
    ],
    text: Text = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The split of a dataset to score; without it validation, else test."),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Score the whole text, not only what is held out of it (its last tenth).")
    ] = False,
    window: Window = 128,
    stride: Annotated[
        int | None,
        typer.Option(metavar="TOKENS", help="A window every so many tokens; without it windows do not overlap."),
    ] = None,
    windows: Annotated[int, typer.Option(metavar="N", help="Score at most the first N windows.")] = 200,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Windows in a forward pass; without it 1024 tokens.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="DIR", help="The tokenizer of models that have none beside them.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be measured, and load no weights.")
    ] = False,
) -> None:
    """Measure models side by side: parameters, perplexity, time of a forward pass, file size.

    Perplexity is that of a text cut into windows, each run by itself: the mean over the tokens of each window but its
    first, or with a stride over those that no window before had.
    """
    from .evaluate import evaluate as run

    run(
        models,
        text=text,
        split=split,
        whole=whole,
        window=window,
        stride=stride,
        limit=windows,
        batch_size=batch_size,
        tokenizer=tokenizer,
        markdown=markdown,
        dry_run=dry_run,
    )


@app.command(
    cls=Command,
    short_help="Write a model as ONNX.",
    epilog="""
    graphprune export OUT -o out.onnx
    graphprune export OUT -o out.onnx --cache --precision int8
    graphprune export OUT -o DIR --genai
    """,
)
def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The ONNX file to write.")],
    cache: Annotated[bool, typer.Option("--cache", help="With keys and values as inputs and outputs.")] = False,
    precision: Annotated[Precision, typer.Option(help="The type of the weights.")] = Precision.fp32,
    part: Annotated[Part | None, typer.Option(help="The encoder or the decoder of a model that has both.")] = None,
    genai: Annotated[
        bool, typer.Option("--genai", help="Write a directory for onnxruntime-genai, with cache and tokenizer.")
    ] = False,
    opset: Annotated[int | None, typer.Option(metavar="N", help="The ONNX opset, 18 or later.")] = None,
    dry_run: DryRunOfWriting = False,
) -> None:
    """Write a model as ONNX, batch and sequence free, and compare it with torch in onnxruntime."""
    if dry_run:
        from .dry_run import dry_export as run
    else:
        from .export import export as run

    run(
        model,
        output,
        opset=opset,
        part=None if part is None else part.value,
        cache=cache,
        precision=precision.value,
        genai=genai,
    )


@app.command(
    cls=Command,
    short_help="Write a model as GGUF, for llama.cpp.",
    epilog="""
    graphprune gguf OUT -o out.gguf
    """,
)
def gguf(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The GGUF file to write.")],
    dtype: Annotated[GGUFType, typer.Option(help="The type of matrices.")] = GGUFType.f16,
    dry_run: DryRunOfWriting = False,
) -> None:
    """Write a LLaMA, Mistral, Qwen2 or Qwen3 as GGUF, its tokenizer included; other families: see what it says."""
    if dry_run:
        from .dry_run import dry_gguf as run
    else:
        from .gguf import gguf as run

    run(model, output, dtype=dtype.value)


@app.command(
    cls=Command,
    short_help="Cut a model to what a saved plan keeps.",
    epilog="""
    graphprune apply OUT/plan.json MODEL -o AGAIN
    graphprune apply OUT/plan.json MODEL --dry-run
    graphprune apply OUT/plan.json LARGE -o AGAIN --by-shard
    """,
)
def apply(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.json that prune wrote.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model that the plan was made for.")],
    output: Output = None,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="An adapter of the model, which peft wrote, to be cut with it.")
    ] = None,
    by_shard: Annotated[
        bool | None,
        typer.Option(
            "--by-shard/--in-memory",
            help="Cut the files one by one, in hardly any memory; or load the model and verify the result. "
            "Without either, what the memory allows.",
            show_default=False,
        ),
    ] = None,
    other_weights: Annotated[
        bool, typer.Option("--other-weights", help="Cut another checkpoint of the model than the plan was made for.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Cut a model to what a saved plan keeps, verify the result and save it.

    A model that is too large for the memory is cut file by file; the same command goes on where one was interrupted.
    """
    if dry_run:
        from .dry_run import dry_apply

        dry_apply(plan, model, output, adapter=adapter, by_shard=by_shard)
        return
    if output is None:
        raise typer.BadParameter("say where to, or --dry-run.", param_hint="'--output'")

    from .apply import apply as run

    run(plan, model, output, adapter=adapter, by_shard=by_shard, other_weights=other_weights)


def main() -> None:
    """The command ``graphprune``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no "→" shows "?"
    # As Ctrl-C, a request to end must not leave temporary files behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    app(prog_name="graphprune")
