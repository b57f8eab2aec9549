//! The `Seal` trait.
