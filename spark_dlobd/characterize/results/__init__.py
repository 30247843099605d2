"""What was measured: records, their file, and results put side by side."""
