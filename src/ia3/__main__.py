"""`python -m ia3`: the same as the `ia3` command."""

from __future__ import annotations

import sys

from ia3.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
