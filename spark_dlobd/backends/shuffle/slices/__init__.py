"""The flat vector of parameters, cut: who owns what, its optimizer, and where it waits."""
