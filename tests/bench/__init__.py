"""Benchmarks: what the control process costs. Run by `make bench`, never by the tests."""
