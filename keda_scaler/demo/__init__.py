"""`keda-scaler demo`: a model goes from zero to N replicas and back, in one terminal.

Real: the scaler (all of `App`), its gRPC and HTTP servers, every call that KEDA makes, the watch of
EndpointSlices, the pages that are read; all of it over sockets on 127.0.0.1. Simulated: the engines
and their pods, the requests, the gateway that holds them, the API server, and the arithmetic of
KEDA and the HPA.

How requests are seen at zero: there, no replica has a page. In front of the replicas stands a
gateway that holds requests while no replica has room for them, and that tells how many on a page
with the names of llm-d's endpoint picker, which the trigger's `wakeFrom` reads.

    plan         how long everything takes, and the ScaledObject
    deployment   pods that load, serve and end, and the Service that lists them
    gateway      holds requests, hands them to replicas, counts what became of them
    autoscaler   asks the scaler as KEDA and the HPA do, and does what they would do
    journal      what happened, in order, with the reason
    stack        all of these around a real scaler; also what `make verify` puts under load
    scenario     one run of that, and its outcome
    verdict      whether the outcome is good, in one line
    display      what a terminal shows meanwhile
    command      the command line
"""
