//! The rules of the table, one by one.
