"""Let a federation work until a random moment."""

from __future__ import annotations

import random
import time


def random_pause(rng: random.Random, longest: float) -> None:
    """Sleep for up to ``longest`` seconds, so that the next fault hits anywhere."""
    time.sleep(rng.random() * longest)
