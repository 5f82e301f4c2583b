"""From raw images to prepared splits and augmented views, and how they are read back."""
