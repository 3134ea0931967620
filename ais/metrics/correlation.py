"""Pearson's and Spearman's correlation, which are 0 where one side does not vary."""

from __future__ import annotations

import numpy as np


def varies(x: np.ndarray, y: np.ndarray) -> bool:
    """Both sides have at least two values, without which there is no correlation."""
    return bool(np.ptp(x) > 0 and np.ptp(y) > 0)


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two lists of N numbers, (N,) each."""
    return float(np.corrcoef(x, y)[0, 1]) if varies(x, y) else 0.0


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation of two lists of N numbers, (N,) each; equal numbers have their mean rank."""
    return float(np.clip(unit_ranks(x) @ unit_ranks(y), -1, 1))


def unit_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, less their mean and of length 1; 0 where nothing varies.

    The product of two such rows is Spearman's correlation.
    """
    from scipy import stats  # here, since who only scores an image needs no SciPy

    ranks = stats.rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2
    length = np.linalg.norm(ranks, axis=-1, keepdims=True)
    return ranks / np.where(length == 0, 1, length)
