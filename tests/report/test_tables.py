import io
from typing import Any

from rich.console import Console

from graphprune.axes import Atom
from graphprune.groups import Kind, Member, PruningGroup
from graphprune.report.tables import (
    Column,
    Measurement,
    Table,
    comparison_table,
    count,
    file_size,
    groups_table,
    to_markdown,
    to_rich,
)


def group(name: str, units: int = 8, kind: Kind = "channels", **fields: Any) -> PruningGroup:
    atom = Atom(id=hash(name) % 1000, size=units)
    member = Member(f"{name}.weight", 0, atom, f"a:{units}")
    defaults: dict[str, Any] = {
        "params_per_unit": 10,
        "frozen": None,
        "statistics": None,
        "family": fields.pop("family", name),
    }
    return PruningGroup(name, kind, atom=atom, members=(member,), **{**defaults, **fields})


def screen(table: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        console.print(to_rich(table))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


LAYERS = [
    group("layers.0.mlp:channels", 8, family="mlp"),
    group("layers.1.mlp:channels", 6, family="mlp"),
    group("layers.2.mlp:channels", 8, family="mlp", frozen="it is an output at layers.2.mlp (x.py:1)"),
    group("layers.3.mlp:channels", 8, family="mlp", frozen="it is an output at layers.3.mlp (x.py:1)"),
    group("layers.0.q:lora_rank", 4, "lora_rank"),
]


def test_groups_of_a_family_share_a_row_and_a_note() -> None:
    table = groups_table(LAYERS)
    assert [column.title for column in table.columns] == [
        "group in layers",
        "×",
        "units",
        "members",
        "params/unit",
        "status",
    ]
    assert table.rows == (
        ("*.mlp:channels", "2", "6–8", "1", "10", "prunable"),
        ("*.mlp:channels", "2", "8", "1", "10", "frozen (1)"),
        ("0.q:lora_rank", "1", "4", "1", "10", "rank (2)"),
    )
    assert table.notes == (
        "(1) it is an output at layers.*.mlp (x.py:1)",
        "(2) the rank of an adapter is cut only when asked for",
    )


def test_a_comparison_is_against_the_first_and_leaves_out_what_nobody_measured() -> None:
    table = comparison_table(
        [
            Measurement("dense", parameters=1000, perplexity=20.0, torch_ms=200.04),
            Measurement("pruned", parameters=800, perplexity=25.5),
        ]
    )
    assert to_markdown(table) == (
        "| model | parameters | perplexity | torch ms |\n"
        "| --- | --: | --: | --: |\n"
        "| dense | 1 k | 20.00 | 200.0 |\n"
        "| pruned | 800 (−20.0%) | 25.50 | – |\n"
    )


def test_a_full_comparison_of_a_real_size_fits_100_columns() -> None:
    def row(name: str, share: float) -> Measurement:
        return Measurement(name, int(134.5e6 * share), int(17.78e9 * share), 1234.56, 223.4, 123.4, int(542e6 * share))

    table = comparison_table([row("dense", 1), row("pruned, untuned", 0.8), row("pruned, tuned", 0.8)])
    lines = screen(table, 100).splitlines()
    assert len(lines) == 6
    assert "pruned, untuned" in lines[4]
    assert "107.6 M (−20.0%)" in lines[4]


def test_numbers_stand_right_and_long_text_breaks() -> None:
    table = Table((Column("name", breaks=True), Column("n", number=True)), (("a" * 12, "1"), ("b", "100")))
    assert screen(table, 12) == "name       n\n────────────\naaaaaaa    1\naaaaa\nb        100"


def test_markdown_escapes_bars_and_keeps_notes() -> None:
    table = Table((Column("a"), Column("b\nc")), (("x|y", "1"),), ("(1) why",))
    assert to_markdown(table) == "| a | b c |\n| --- | --- |\n| x\\|y | 1 |\n\n(1) why\n"


def test_counts_and_sizes() -> None:
    assert [count(value) for value in (0, 999, 67_728, 134_515_008, 17_779_654_656)] == [
        "0",
        "999",
        "67.73 k",
        "134.5 M",
        "17.78 G",
    ]
    assert [file_size(value) for value in (12, 273_900, 542_028_035)] == ["12 B", "274 kB", "542 MB"]
