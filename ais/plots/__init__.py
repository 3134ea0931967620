"""Figures as PNG files; the functions take arrays."""
