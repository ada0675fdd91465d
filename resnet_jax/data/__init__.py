"""Data: where examples are, what is done to one, and how they become the batch of a step."""
