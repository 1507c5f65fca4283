"""``bench`` is no part of the installed package: these tests find it beside ``tests``, however pytest was started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
