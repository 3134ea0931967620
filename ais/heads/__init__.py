"""The trained part: its config, its tensors, its folder."""
