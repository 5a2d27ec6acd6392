"""KEDA and the HPA as code: what they do with our answers."""
