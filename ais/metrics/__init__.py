"""How well predictions match ratings, with intervals."""
