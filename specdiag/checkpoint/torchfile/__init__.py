"""Read the formats of torch.save without torch."""
