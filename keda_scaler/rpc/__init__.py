"""gRPC: the surface that KEDA calls. Handlers parse, decide and convert; they do no I/O."""
