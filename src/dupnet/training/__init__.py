"""Training: recipes, targets, teachers, the losses of grids and of EResFD, crops made on a GPU, the loop."""
