"""The metrics page that the scaler reads meanwhile: a simulated engine under a steady load."""

import uvloop

from keda_scaler.sim.load import Arrivals, Constant, drive
from keda_scaler.sim.server import SimulatedEngine

REQUESTS_PER_SECOND = 2.0
"""About what the default engine can serve, so that its queue comes and goes."""


async def _serve() -> None:
    async with SimulatedEngine() as engine:
        print(f"simulated engine {engine.url.removeprefix('http://')}", flush=True)
        await drive(Arrivals(Constant(REQUESTS_PER_SECOND)), engine.submit)


if __name__ == "__main__":
    uvloop.run(_serve())
