"""The packer: a release on disk, and perhaps the one before it, in; bundles out."""
