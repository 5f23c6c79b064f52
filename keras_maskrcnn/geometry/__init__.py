"""Functions for boxes, masks, image sizes and run lengths, without weights. Called by all rooms above."""
