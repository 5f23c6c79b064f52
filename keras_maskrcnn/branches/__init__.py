"""What is predicted for each RoI beside class and box: one kind of prediction a file."""
