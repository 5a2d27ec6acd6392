"""Asks a scaler for its gRPC health: health.py HOST:PORT [FOLDER with ca.crt and the like]."""

import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 10.0


def read(name: str) -> bytes | None:
    """Read a file of the folder; None: it is not there."""
    file = Path(sys.argv[2]) / name
    return file.read_bytes() if file.exists() else None


address = sys.argv[1]
if len(sys.argv) > 2:  # there is a folder, so TLS
    credentials = grpc.ssl_channel_credentials(read("ca.crt"), read("tls.key"), read("tls.crt"))
    channel = grpc.secure_channel(address, credentials)
else:
    channel = grpc.insecure_channel(address)
request = health_pb2.HealthCheckRequest(service="externalscaler.ExternalScaler")
try:
    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=SECONDS)
except grpc.RpcError as error:
    sys.exit(f"{address}: {error.code().name}: {error.details()}")
status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
sys.stdout.write(f"{address}: {status}\n")
sys.exit(status != "SERVING")
