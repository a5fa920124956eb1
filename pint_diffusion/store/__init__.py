"""The files of a run: parts, the manifest of complete iterations, the master that joins them."""
