"""The files of a run: immutable parts, the manifest of complete ones, the master that joins them."""
