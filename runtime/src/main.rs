//! The program `runtime`: all of it is the library beside this file, so that others can read its command line's definition.
//!
//! It begins where the C library calls it. What Rust does before `main` it does for programs with threads and deep stacks:
//! it reads the memory map for the stack's end, and makes another stack to say there that the first has overflowed. Of every
//! verb that is a tenth. What is needed of it is in [`runtime::main`].
#![no_main]

/// Called by the C library; `std::env` has got the arguments from it already.
#[allow(unsafe_code, reason = "a name for the linker: there is no other `main`")]
#[unsafe(no_mangle)]
extern "C" fn main() -> std::ffi::c_int {
    // Not by returning, which would not write what is still in a buffer of Rust's.
    std::process::exit(runtime::main().into())
}
