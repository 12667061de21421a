"""The satellite: receives, stores, installs, serves releases. Imports torch only in an engine worker."""
