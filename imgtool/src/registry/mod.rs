//! The client of the registry protocol (OCI distribution-spec, Docker Registry HTTP API V2).

mod auth;
mod blob;
mod client;
mod config;
mod credentials;
mod documents;
mod login;
mod transport;
mod upload;
mod url;

pub(crate) use blob::RemoteBlob;
pub(crate) use client::{Access, Registry};
pub(crate) use config::Registries;
pub(crate) use credentials::Credential;
pub(crate) use documents::Delivered;
pub(crate) use login::{check as check_login, forget as forget_login, keep as keep_login, server_name};
pub(crate) use transport::Stop;
pub(crate) use upload::{Sent, Told};
