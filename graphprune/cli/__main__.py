"""``python -m graphprune.cli``"""

from .app import main

main()
