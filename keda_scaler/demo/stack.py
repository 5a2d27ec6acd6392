"""The simulated stack around a real scaler: everything is built, connected and taken down here."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from keda_scaler.app import App
from keda_scaler.demo.autoscaler import Autoscaler
from keda_scaler.demo.deployment import HOST, Deployment
from keda_scaler.demo.gateway import Gateway
from keda_scaler.demo.journal import Journal
from keda_scaler.demo.plan import GATEWAY, NAMESPACE, StackPlan, manifest
from keda_scaler.keda.client import open_channel
from keda_scaler.keda.scaledobject import parse_scaled_object
from keda_scaler.settings import Settings
from keda_scaler.sim.kubernetes import SimulatedCluster, SimulatedEndpoint
from keda_scaler.sources.kubernetes import ServiceDirectory, at_url


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs, from clients to replicas."""

    journal: Journal
    deployment: Deployment
    gateway: Gateway
    autoscaler: Autoscaler


@contextlib.asynccontextmanager
async def running(plan: StackPlan, journal: Journal) -> AsyncIterator[Stack]:
    """Start everything, at zero replicas; what is entered last stops first.

    Who enters this sets `autoscaler.on_step`, and gives way to the loop only then.
    """
    async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as exits:
        api = await exits.enter_async_context(SimulatedCluster(host=HOST))
        deployment = Deployment(plan, api, group, lambda text: journal.add("pods", text))
        exits.callback(deployment.stop)
        gateway = await exits.enter_async_context(Gateway(plan, deployment.ready))
        api.put_service(NAMESPACE, GATEWAY, [SimulatedEndpoint(HOST, f"{GATEWAY}-0", gateway.port)])
        deployment.on_ready = gateway.hand_on
        directory = ServiceDirectory(configure=at_url(api.url))
        app = await exits.enter_async_context(App(_settings(), directory))
        address = f"{HOST}:{app.grpc_port}"
        channel = await exits.enter_async_context(open_channel(address))
        scaled_object = parse_scaled_object(manifest(plan, address))
        autoscaler = Autoscaler(scaled_object, channel, deployment)
        loops = {
            "poll": autoscaler.poll(),
            "sync": autoscaler.sync(plan.sync_seconds),
            **{
                f"stream-{each.index}": autoscaler.listen(each)
                for each in scaled_object.external_triggers
            },
        }
        tasks = [group.create_task(loop, name=name) for name, loop in loops.items()]
        exits.push_async_callback(cancel, tasks)
        yield Stack(journal, deployment, gateway, autoscaler)


async def cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _settings() -> Settings:
    """Give the scaler's settings, all of them: they do not depend on the environment."""
    return Settings(
        grpc_address=f"{HOST}:0",
        http_address=f"{HOST}:0",
        prometheus={},
        allow_address=("127.0.0.0/8",),
        demo=False,
        tls_cert=None,
        tls_key=None,
        tls_client_ca=None,
    )
