"""What keeps a run: its folder, checkpoints, processes, signals and progress. Nothing in here knows what is trained."""
