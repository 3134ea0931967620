"""How good heatmaps are, measured on pictures: do the places that they name matter, and do they follow the head?"""
