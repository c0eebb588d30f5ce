"""How a command measures files: here or on a cluster, and without what an interrupted run has."""
