"""What is trained: models and data sets by name."""
