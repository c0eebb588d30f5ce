"""A monitor of spectra within the training loops of other libraries."""
