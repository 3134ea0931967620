"""Measures on arrays: agreement with ratings, correlations, confidence intervals."""
