"""Raw images to prepared splits and augmented views, and the code that reads them back."""
