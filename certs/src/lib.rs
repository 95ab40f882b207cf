//! Certificate bundles.
