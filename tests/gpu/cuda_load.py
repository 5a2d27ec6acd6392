"""Take memory of the first GPU, and keep it busy, until standard input closes.

Speaks to the driver itself, so that a GPU node needs nothing of CUDA but what the driver brings.
"""

import argparse
import ctypes
import selectors
import sys

_FILLS = 64
"""How often memory is filled before it is looked whether to end."""


class Cuda:
    """The driver's library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.call("cuCtxSetCurrent", context)

    def call(self, function: str, *arguments: object) -> None:
        """Call a function that gives a CUresult.

        Raises:
            RuntimeError: when that is not success.

        """
        code = getattr(self._library, function)(*arguments)
        if code:
            raise RuntimeError(f"{function} failed with CUresult {code}")


def main() -> None:
    """Take it, say so, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bytes", type=int, help="how much memory to take")
    parser.add_argument("--busy", action="store_true", help="fill it again and again")
    options = parser.parse_args()
    cuda, memory = Cuda(), ctypes.c_uint64()
    cuda.call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(options.bytes))
    print("taken", flush=True)  # noqa: T201  # a script
    if not options.busy:
        sys.stdin.read()
        return
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while not selector.select(0):
            for _ in range(_FILLS):
                cuda.call(
                    "cuMemsetD8_v2", memory, ctypes.c_ubyte(1), ctypes.c_size_t(options.bytes)
                )
            cuda.call("cuCtxSynchronize")


if __name__ == "__main__":
    main()
