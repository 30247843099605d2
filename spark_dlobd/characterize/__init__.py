"""The DLoBD characterization: which backend, how many workers, and what limits them.

Models and data sets of "Characterizing Deep Learning over Big Data Stacks on
RDMA-capable Networks", sweeps over backends and workers, and figures, findings and a
page made from the results. Nothing heavy is imported until it is used.
"""
