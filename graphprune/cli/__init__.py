"""The command line: ``graphprune demo | prune | inspect | eval | export | apply``.

``app.py`` has the commands and their options, and turns errors into one line and an exit code; each other file does the
work of one command. Heavy libraries are imported by the commands that need them, so that ``--help`` answers at once.
"""

from .app import app, main

__all__ = ["app", "main"]
