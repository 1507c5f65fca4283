"""Evaluation: metrics, exact neighbours, splits without leaks, and the baselines that people use today."""
