"""How right a model is: its loss on a text, and whether a saved one is the one that was trained."""
