"""The benchmark suite: ``python -m tests.benchmarks`` measures the link, and the floors beside it."""
