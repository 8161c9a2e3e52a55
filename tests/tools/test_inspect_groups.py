"""tools/inspect_groups.py prints what ``graphprune inspect`` prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..tiny import save_tiny_llama

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("options", "golden"), [([], "inspect.txt"), (["--json"], "inspect.json")])
def test_golden_output(tmp_path: Path, options: list[str], golden: str) -> None:
    model = save_tiny_llama(tmp_path / "tiny")
    command = [sys.executable, str(ROOT / "tools" / "inspect_groups.py"), str(model), *options]
    # From elsewhere: the script finds the checkout that it lies in.
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, encoding="utf-8")
    assert (result.returncode, result.stderr) == (0, "")
    expected = (ROOT / "tests" / "golden" / golden).read_text(encoding="utf-8")
    assert re.sub("─+", "─", re.sub(r"\.py:\d+", ".py:N", result.stdout)) == expected


def test_an_error_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "inspect_groups.py"), str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == f"error: There is no directory {tmp_path / 'none'}: check the path.\n"
