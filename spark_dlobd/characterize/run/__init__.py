"""Runs the cases of a sweep, each in a process of its own, and keeps what they measure."""
