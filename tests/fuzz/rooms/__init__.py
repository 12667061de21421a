"""The parsers under attack, a module for each room: what is attacked together under guidance."""
