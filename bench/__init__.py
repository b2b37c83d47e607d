"""Benchmarks: `python -m bench.echo` and `python -m bench.micro`. Run them from the top of the checkout."""
