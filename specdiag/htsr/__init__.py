"""Heavy-tailed self-regularisation metrics of weight matrices."""
