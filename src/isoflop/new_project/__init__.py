"""`isoflop init`: looks at a folder of images and lays out a project for it."""
