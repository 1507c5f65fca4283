"""Loading: parts become batches. Never imports the builder.

Opening parts, and batches of one part, need no numba: nothing is compiled. Where edges of several parts, or of a halo, are put
together, :mod:`hasp.load.runs` and :mod:`hasp.load.join` call the kernels of :mod:`hasp.kernels.join` (1.5 times faster than
NumPy alone), and where links supervise, :mod:`hasp.load.pairs` calls those of :mod:`hasp.kernels.pairs` (2 to 3 times faster).
They are compiled by the first batch that needs them and kept on disk.
"""
