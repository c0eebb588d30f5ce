"""How a command measures files: one after another, and gone on with after an interruption."""
