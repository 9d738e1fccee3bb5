"""Benchmarks of SARK against the bare driver, side by side on one server.

``python -m benchmarks`` runs them; ``docs/benchmarks.md`` explains what is measured and how.
"""
