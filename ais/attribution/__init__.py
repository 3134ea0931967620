"""Where in an image the score comes from: exact ablation, heatmaps and their evaluation."""
