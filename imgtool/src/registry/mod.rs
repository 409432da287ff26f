//! The client of the registry protocol (OCI distribution-spec, Docker Registry HTTP API V2).

mod auth;
mod blob;
mod client;
mod credentials;
mod transport;
mod url;

pub(crate) use blob::RemoteBlob;
pub(crate) use client::{Access, Registry};
pub(crate) use credentials::Credential;
pub(crate) use transport::Stop;
