"""Benchmarks of skinfluence: ``python -m benchmarks list``."""
