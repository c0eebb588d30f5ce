"""`python -m specdiag`: the command line."""

import sys
from contextlib import suppress
from pathlib import Path

# Python looks for modules first in the working folder, which may come from a stranger.
with suppress(FileNotFoundError):  # of a working folder that was removed
    if not sys.flags.safe_path and not Path(__file__).is_relative_to(Path.cwd()):
        sys.path.pop(0)

from specdiag.cli.main import main

main()
