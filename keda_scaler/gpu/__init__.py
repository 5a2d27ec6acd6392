"""GPUs of this node: what NVML says of them, and which pods the kubelet says hold them."""
