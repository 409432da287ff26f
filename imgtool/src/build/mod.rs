//! `imgtool build`: images from Dockerfiles.
#![allow(dead_code)]

mod expand;
mod glob;
mod parse;
mod source;
