"""Parts folders: the one class that does I/O, the manifest, the writer and the readers. Never imports numba."""
