"""Let a federation work until a moment that nobody has chosen."""

from __future__ import annotations

import random
import time


def random_pause(dice: random.Random, longest: float) -> None:
    """Sleep for up to ``longest`` seconds, so that the next fault hits anywhere."""
    time.sleep(dice.random() * longest)
