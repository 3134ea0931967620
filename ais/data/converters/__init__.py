"""Published data sets as folders of rated images."""
