"""What becomes of each tensor, from configs and headers alone: claims, files, and the realiser."""
