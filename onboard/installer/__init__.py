"""The installer: from a trusted manifest and its bundles to a sealed, tried and confirmed release."""
