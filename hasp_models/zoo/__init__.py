"""The recommenders of the literature, one a file; nothing is imported before it is asked for by its file's name."""
