"""Tables of ratings, matrices of dissimilarities, and published data sets as such folders."""
