"""`isoflop init`: survey a folder or archive of images and create a project with parameters that fit them."""
