"""``python -m sark.settings`` prints the reference that is kept in ``docs/settings.md``."""

from __future__ import annotations

import sys

from sark.settings import render_markdown

sys.stdout.write(render_markdown())
