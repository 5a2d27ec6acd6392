"""HTTP: metrics and health of the scaler itself."""
