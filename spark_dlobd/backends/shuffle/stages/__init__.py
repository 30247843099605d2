"""What runs in the tasks of Spark's stages, and what a Python worker keeps between them."""
