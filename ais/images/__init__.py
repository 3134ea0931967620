"""Reading image files safely, and what a network sees of an image."""
