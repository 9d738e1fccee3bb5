"""Where audit events go: one file for each kind of receiver."""
