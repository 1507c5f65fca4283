"""Loading: parts become batches. Imports neither numba nor the builder, so a training job compiles nothing."""
