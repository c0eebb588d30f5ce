"""Files of Keras, and other HDF5 files, as named tensors."""
