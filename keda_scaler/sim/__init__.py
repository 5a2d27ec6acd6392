"""A simulated engine and what it runs under: for demos, trials without a GPU, and tests."""
