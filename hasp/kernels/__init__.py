"""Numba kernels: arrays and scalars in, arrays out, no validation. ``hasp.build`` and its stages import them, and ``hasp.load``
those of :mod:`hasp.kernels.join`, where edges of several parts are put together.

Every kernel is serial, releases the GIL and is cached; the stages run it over blocks in threads. The blocks do not depend
on the number of threads, and neither does the result. Each kernel has a naive twin in ``tests/naive``.
"""
