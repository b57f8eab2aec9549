//! The 21 functions.
#![allow(unsafe_code, reason = "names of C are promises to the linker")]
#![allow(clippy::missing_safety_doc, reason = "libdlm.h says what it asks of callers")]
#![allow(clippy::too_many_arguments, reason = "C has them")]

oarlock_dlm_c::exports!(oarlock_dlm_c::calls::Library::Light);
