"""The experiments of the paper and beyond, each one script; run by `python -m benchmarks run NAME`."""
