"""What a fit will cost: a few seconds of probing, and formulas for every backend.

`measured` holds what was probed, `model` the formulas (pure), `explanation` what
``DLEstimator.explain`` returns, `choice` what ``backend="auto"`` asks, and `check` compares
predictions with what a sweep measured. Nothing heavy is imported until it is used.
"""
