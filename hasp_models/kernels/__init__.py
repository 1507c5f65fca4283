"""Kernels: arrays and scalars in, arrays out, no validation. Importing this package compiles and imports nothing."""
