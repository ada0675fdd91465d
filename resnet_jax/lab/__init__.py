"""The laboratory: sweeps, measurements, reports and estimates. Training imports nothing of it."""
