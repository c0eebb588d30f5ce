"""The POYO model: how it is trained, evaluated and saved."""
