"""Raw images from a published data set, a URL or a folder, with verified checksums."""
