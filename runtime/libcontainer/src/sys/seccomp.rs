//! seccomp(2): loading of filters.
