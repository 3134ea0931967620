"""Model cards, and heads on the Hugging Face Hub."""
