"""Benchmarks: one file per stage, and in each the peers or the physical floor are measured beside us in the same run."""
