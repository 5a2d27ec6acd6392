"""The pure core: words and decisions. No I/O and no clock; time is a parameter."""
