"""Alpha by the rules of others, for comparison."""
