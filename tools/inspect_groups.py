"""The pruning groups of a model as a tree, as JSON or as a picture: ``python tools/inspect_groups.py MODEL [--json]``.

The same as ``graphprune inspect``, for a checkout that is not installed.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from graphprune.cli import app

    app(["inspect", *sys.argv[1:]], prog_name="inspect_groups.py")
