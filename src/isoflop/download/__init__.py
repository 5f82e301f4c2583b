"""Fetch raw images from a published data set, a URL, an archive or a folder. Downloads are verified by checksum."""
