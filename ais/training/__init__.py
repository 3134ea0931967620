"""Fitting heads, and choosing among them."""
