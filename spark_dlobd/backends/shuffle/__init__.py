"""Gradients and weights as Spark shuffle data: BigDL's parameter synchronization, in band."""
