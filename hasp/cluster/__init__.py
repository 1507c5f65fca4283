"""Builds whose work is spread over the machines of a cluster, or over the threads of this process: the same bytes."""
