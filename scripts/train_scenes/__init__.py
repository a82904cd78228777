"""Drawn scenes, the questions about them, and the training of the embedded checkpoint."""
