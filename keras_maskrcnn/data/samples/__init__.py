"""An image with its objects on the way into a batch, and the affine map that it is seen through."""
