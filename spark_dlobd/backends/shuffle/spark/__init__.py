"""Spark's jobs and stages: how they are described, watched and explained."""
