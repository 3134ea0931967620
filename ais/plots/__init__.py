"""Figures, of arrays: curves of training, scatter plots, what `ais align` found, sheets of images."""
