"""``python scripts/golden``: see ``python scripts/golden --help``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from golden.command import main  # the folder above has to be on the path first

sys.exit(main())
