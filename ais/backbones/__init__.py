"""Pretrained networks, frozen: the registry, their weights, and their embeddings of many images."""
