"""Times for where nothing was measured, in seconds."""

from __future__ import annotations

USUAL_OVERHEAD = 0.001
"""Between client and queue and back."""
USUAL_LOAD = 1.0
"""Until a worker is up: an interpreter and a small framework."""
