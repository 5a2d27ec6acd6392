"""The scaler as users run it, which on SIGUSR2 collects all garbage and prints how long that took.

A full collection stops everything, and comes when Python finds it due. This is how long the next
one would take.
"""

import gc
import signal
import time
from types import FrameType

from keda_scaler.cli import main


def _collect(_: int, __: FrameType | None) -> None:
    began = time.perf_counter()
    gc.collect()
    print(f"collected in {time.perf_counter() - began:.6f} s", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, _collect)
    main()
