"""Numba kernels: arrays and scalars in, arrays out, no validation. Only ``hasp.build`` and its stages import them.

Every kernel is serial, releases the GIL and is cached; the stages run it over blocks in threads. The blocks do not depend
on the number of threads, and neither does the result. Each kernel has a naive twin in ``tests/naive``.
"""
