"""What storing weights costs. `python -m benchmarks.weights.codecs` needs nothing but numpy."""
