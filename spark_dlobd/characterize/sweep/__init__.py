"""What a sweep asks for, and the cases that it means."""
