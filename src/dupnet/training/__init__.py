"""Training: recipes, targets, the region loss, the loop."""
