"""Training: state, optimizers and schedules, losses, metrics, the pure steps, and the loop."""
