"""Every variable of every Dataset, with its dimensions, dtype and description."""
