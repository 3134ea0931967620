"""Representational similarity analysis: networks and people, and which feature maps carry the match."""
