"""What a run will hold and how long it will take, before it is started: memory of a rank, seconds of a step, layouts that fit.

Formulas only, and none of torch: a 70B model is estimated on a laptop. docs/estimate.md derives them and says how far from
measurements they are.
"""
