"""HDF5 files, without following them to other files."""
