"""Slow references in plain Python, one per kernel and one per definition. They share no helper with the library."""
