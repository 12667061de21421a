"""The satellite: receives, stores, installs and serves releases. Never imports torch outside an engine worker."""
