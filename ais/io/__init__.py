"""Files and the Hugging Face Hub: writing all or nothing, and fetching."""
