"""A new model put on the grid of the one on board, so that few codes change and little is lost."""
