"""Files that are not on this machine, read by ranges of bytes."""
