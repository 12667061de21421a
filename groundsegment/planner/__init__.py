"""Which contacts carry what, and when an update will be there. Pure, but for the files that `contact_plan` reads."""
