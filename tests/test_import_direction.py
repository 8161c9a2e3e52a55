"""Imports point one way: cli, tools → api → training, export, report → passes → rules, groups, … → axes → errors."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports from its own layer and from those below it. The longest name that fits decides.
LAYERS: list[set[str]] = [
    {"graphprune.errors", "graphprune.version"},
    {"graphprune.axes"},
    {
        "graphprune.collector",
        "graphprune.device",
        "graphprune.distributed",
        "graphprune.files",
        "graphprune.onnx",
        "graphprune.progress",
        "graphprune.quiet",
        "graphprune.schedule",
        "graphprune.tables",
        "graphprune.weight_files",
    },
    {
        "graphprune.copies",
        "graphprune.rules",
        "graphprune.program",
        "graphprune.groups",
        "graphprune.masks",
        "graphprune.plan",
    },
    {"graphprune.traced", "graphprune.explain"},
    {"graphprune.passes"},
    {
        "graphprune.budget",
        "graphprune.matrices",
        "graphprune.quantised",
        "graphprune.scores",
        "graphprune.gradients",
        "graphprune.activations",
        "graphprune.gates",
        "graphprune.criteria",
        "graphprune.aggregate",
        "graphprune.kinds",
    },
    {
        "graphprune.adapters",
        "graphprune.origin",
        "graphprune.compact",
        "graphprune.in_place",
        "graphprune.pipeline",
        "graphprune.revision",
        "graphprune.scoring",
        "graphprune.compensation",
        "graphprune.reconstruction",
    },
    {
        "graphprune.expressible",
        "graphprune.shortened",
        "graphprune.constraints",
        "graphprune.ladders",
        "graphprune.latency",
        "graphprune.layers",
        "graphprune.selection",
        "graphprune.sources",
        "graphprune.evaluation",
    },
    {"graphprune.training", "graphprune.export", "graphprune.report"},
    {"graphprune.api"},
    {"graphprune"},
    {"graphprune.cli"},
    {"tools"},
]
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}
# The algebra of axes is plain Python, so that it can be read and tested by itself.
AXES_MAY_IMPORT = sys.stdlib_module_names | {"graphprune", "networkx"}


def sources() -> list[Path]:
    # passes/ is read at the top level, where it is; the link in graphprune/ would show it twice.
    files = [path for top in ("graphprune", "passes", "tools") for path in (ROOT / top).rglob("*.py")]
    return sorted({path for path in files if path.relative_to(ROOT).parts[:2] != ("graphprune", "passes")})


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "passes":
        parts.insert(0, "graphprune")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> int | None:
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    for name in names:
        # What is not in the table must not count as the package above everything.
        if name in LAYER_OF and (name != "graphprune" or len(parts) == 1):
            return LAYER_OF[name]
    return None


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Each import in the file, wherever it stands: its line and the full name of the module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module_name(path.parent / "__init__.py").split(".")
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from graphprune import errors` imports graphprune.errors; a name in the package is the package's.
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield node.lineno, inner if module == "graphprune" and inner in LAYER_OF else module


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    name = module_name(path)
    own = layer(name)
    assert own is not None, f"{name} has no layer yet: add it to LAYERS in {Path(__file__).name}"
    for line, imported in imports(path):
        other = layer(imported) if imported.split(".")[0] == "graphprune" else None
        assert other is None or other <= own, f"{path.relative_to(ROOT)}:{line}: {name} must not import {imported}"
        top = imported.split(".")[0]
        assert top != "passes", f"{path.relative_to(ROOT)}:{line}: import graphprune.passes, the name when installed"
        if name.startswith("graphprune.axes"):
            assert top in AXES_MAY_IMPORT, f"{path.relative_to(ROOT)}:{line}: axes must not import {imported}"
