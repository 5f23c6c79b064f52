"""Around the trained model, in image pixels: the predictor, large images, pictures."""
