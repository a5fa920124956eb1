"""The files of a run: HDF5 shards, one per rank, and the master that joins them."""
