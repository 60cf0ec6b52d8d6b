"""One façade per client family, all over one core. A door translates shapes and errors, nothing more."""
