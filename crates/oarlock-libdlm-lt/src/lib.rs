//! `libdlm_lt.so.3`: what programs that were written for the Linux DLM link, here on top of Oarlock. Callbacks run where the
//! program dispatches or waits.
//!
//! All of it is in `oarlock_dlm_c`; this gives it the names that programs know, without versions, as they had none before.
#![deny(unsafe_code)]

pub mod exports;
