"""Soak tests: many tasks under random faults."""
