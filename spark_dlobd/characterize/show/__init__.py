"""Figures, tables, findings and the page made from results."""
