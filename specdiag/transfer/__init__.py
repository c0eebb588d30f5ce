"""Link the spectra of many checkpoints to their transfer R²."""
