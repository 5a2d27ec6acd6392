"""The words that a trigger may choose from."""

ENGINES = (
    *("dynamo", "llama.cpp", "lmdeploy", "nim", "sglang", "tgi"),
    *("triton", "triton-trtllm", "triton-vllm", "trtllm-serve", "vllm"),
)
"""Keys of the engines that we can read, sorted. `keda_scaler.engines` has a dialect for each."""

REPORTS = "reports"
"""As `engine` or `wakeFrom`: what gateways and queue workers post to our HTTP API."""

QUERY = "query"
"""As `wakeFrom`: a PromQL query of the trigger's own."""

GATEWAYS = (
    *("envoy", "epp", "istio", "keda-http-add-on"),
    *("litellm", "nginx", "vllm-router"),
)
"""Keys of the gateways that we can read, sorted. `keda_scaler.gateways` has a table for each."""
