"""Files of features, read in pieces: NumPy, safetensors, netCDF and HDF5, and zarr."""
