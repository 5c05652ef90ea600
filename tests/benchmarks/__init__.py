"""The benchmark suite: ``python -m tests.benchmarks`` measures the link, a job's server, and the floors beside them."""
