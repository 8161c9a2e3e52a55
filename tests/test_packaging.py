"""What pyproject.toml says about the package holds."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_listed() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "graphprune").rglob("__init__.py")
        if path.relative_to(ROOT).parts[:2] != ("graphprune", "passes")
    }
    found |= {
        ".".join(("graphprune", *path.parent.relative_to(ROOT).parts))
        for path in (ROOT / "passes").rglob("__init__.py")
    }
    assert found == set(PYPROJECT["tool"]["setuptools"]["packages"])


def test_every_file_beside_the_code_is_installed() -> None:
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    listed = {(package.replace(".", "/"), name) for package, names in data.items() for name in names}
    found = {
        (path.parent.relative_to(ROOT).as_posix(), path.name)
        for path in (ROOT / "graphprune").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert found == listed


def test_every_dependency_has_a_tested_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    project = PYPROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    assert {re.split(r"[<>=\[]", requirement)[0].lower() for requirement in wanted} <= pinned


def test_passes_resolve_from_a_checkout() -> None:
    import graphprune.passes

    assert Path(graphprune.passes.__file__).resolve() == ROOT / "passes" / "__init__.py"
