"""One thread for linear algebra: processes that share a machine then do not fight for its cores."""

from __future__ import annotations

from typing import Final

#: For the environment of a child process, whatever library numpy or torch may be built with. More threads also change
#: the order of additions, and with it the last bits of a result.
ONE_THREAD: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "BLIS_NUM_THREADS": "1",
}
