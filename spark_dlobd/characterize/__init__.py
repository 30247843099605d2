"""The DLoBD characterization: the same model over backends, transports, workers and networks."""
