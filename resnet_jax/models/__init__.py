"""Networks as Flax modules, and the registry of the names users know them by."""
