"""The report of a fit: what was measured, how it is put together, and what it says."""
