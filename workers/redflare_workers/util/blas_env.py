"""Environment variables that limit linear algebra to one thread, so processes on a machine do not compete for cores."""

from __future__ import annotations

from typing import Final

#: For a child process; one variable for each library that numpy or torch may be built with. More threads also change
#: the order of additions, and with it the last bits of a result.
ONE_THREAD: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "BLIS_NUM_THREADS": "1",
}
