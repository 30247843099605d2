"""MPI for ranks that are children of Spark's tasks."""
